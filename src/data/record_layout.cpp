#include "data/record_layout.h"

#include <algorithm>

#include "data/record_file.h"
#include "io/json.h"
#include "tern/error.h"

namespace tern::data {
namespace {

constexpr std::int64_t count_cap = std::int64_t{1} << 48;  // keeps all sums of the layout inside 63 bits

struct TokenType {
  std::string_view text;
  DType dtype;
  std::int64_t bytes, largest;
};
constexpr std::array<TokenType, 3> token_types{{{"uint8", DType::uint8, 1, 255},
                                                {"uint16", DType::uint16, 2, 65535},
                                                {"int32", DType::int32, 4, INT32_MAX}}};
constexpr std::array<std::string_view, 2> label_kinds{"classes", "target"};

const TokenType* find_type(DType dtype) {
  const auto found = std::find_if(token_types.begin(), token_types.end(),
                                  [&](const TokenType& type) { return type.dtype == dtype; });
  return found == token_types.end() ? nullptr : &*found;
}

bool within(std::int64_t value, std::int64_t low, std::int64_t high) { return value >= low && value <= high; }

}  // namespace

std::int64_t gap_after(std::int64_t end, std::int64_t alignment) {
  return (alignment - end % alignment) % alignment;
}

std::string_view RecordLayout::section_at(std::int64_t at) const {
  if (at >= trailer) return "trailer";
  std::size_t section = 0;
  while (section + 1 < sections.size() && sections[section + 1].begin <= at) ++section;
  return section_names[section];
}

RecordLayout lay_out(const RecordHeader& header, std::uint32_t header_bytes) {
  const std::int64_t front = static_cast<std::int64_t>(sizeof(FrontStart)) + header_bytes;
  const std::array<std::int64_t, 4> bytes{
      front + gap_after(front, 4096), header.tokens * find_type(header.token_type)->bytes, 4 * header.records,
      8 * (header.records * header.sequences_per_record + 1)};
  RecordLayout layout;
  std::int64_t end = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::int64_t begin = end + gap_after(end, 64);
    layout.sections[i] = {begin, bytes[i]};
    end = begin + bytes[i];
  }
  layout.trailer = end;
  layout.file_bytes = end + 16 * static_cast<std::int64_t>(bytes.size());
  return layout;
}

std::string header_fault(const RecordHeader& header) {
  const TokenType* type = find_type(header.token_type);
  const bool classes = header.label_kind == LabelKind::classes;
  if (type == nullptr) return "the token type must be uint8, uint16 or int32";
  if (!within(header.vocabulary, 1, type->largest + 1)) {
    return format_text("the vocabulary must fit {}, got {}", type->text, header.vocabulary);
  }
  if (!within(header.sequences_per_record, 1, 2)) {
    return format_text("a record must have 1 or 2 sequences, got {}", header.sequences_per_record);
  }
  if (!within(header.classes, classes ? 1 : 0, classes ? INT32_MAX : 0)) {
    return format_text("classes must be at least 1, or 0 with targets, got {}", header.classes);
  }
  if (!within(header.records, 0, count_cap) || !within(header.tokens, 0, count_cap) ||
      !within(header.longest, 0, std::min<std::int64_t>(header.tokens, INT32_MAX)) ||
      !within(header.padded_length, 0, INT32_MAX)) {
    return format_text(
        "counts must lie in their ranges, got {} records, {} tokens, longest {}, padded length {}",
        header.records, header.tokens, header.longest, header.padded_length);
  }
  return "";
}

std::string header_text(const RecordHeader& header) {
  return io::dump_json({{"task", header.task},
                        {"split", header.split},
                        {"options", io::parse_json(header.options, "options of a record file")},
                        {"seed", header.seed},
                        {"vocabulary", header.vocabulary},
                        {"classes", header.classes},
                        {"sequences_per_record", header.sequences_per_record},
                        {"token_type", find_type(header.token_type)->text},
                        {"label_kind", label_kinds[static_cast<std::size_t>(header.label_kind)]},
                        {"padded_length", header.padded_length},
                        {"records", header.records},
                        {"tokens", header.tokens},
                        {"longest", header.longest}});
}

RecordHeader parse_header(std::string_view text, const std::filesystem::path& path) {
  const std::string where = format_text("{}: front section", path);
  const io::Json json = io::parse_json(text, where);
  RecordHeader header;
  header.task = io::json_string(json, "task", where);
  header.split = io::json_string(json, "split", where);
  const io::Json& options = io::json_member(json, "options", where);
  if (!options.is_object()) throw_error(ExitCode::bad_data, "{}: options must be a JSON object", where);
  header.options = io::dump_json(options);
  header.seed = io::json_unsigned(json, "seed", where);
  header.vocabulary = io::json_integer(json, "vocabulary", where);
  header.classes = io::json_integer(json, "classes", where);
  header.padded_length = io::json_integer(json, "padded_length", where);
  header.records = io::json_integer(json, "records", where);
  header.tokens = io::json_integer(json, "tokens", where);
  header.longest = io::json_integer(json, "longest", where);
  header.sequences_per_record =
      static_cast<int>(std::clamp<std::int64_t>(io::json_integer(json, "sequences_per_record", where), 0, 3));
  const std::string type = io::json_string(json, "token_type", where);
  const std::string kind = io::json_string(json, "label_kind", where);
  header.token_type = DType::float32;
  for (const TokenType& known : token_types) {
    if (known.text == type) header.token_type = known.dtype;
  }
  header.label_kind = kind == label_kinds[0] ? LabelKind::classes : LabelKind::target;
  std::string fault = header_fault(header);
  if (kind != label_kinds[0] && kind != label_kinds[1])
    fault = "label_kind must be classes or target, got " + kind;
  if (!fault.empty()) throw_error(ExitCode::bad_data, "{}: {}; {}", where, fault, prepare_again);
  return header;
}

}  // namespace tern::data
