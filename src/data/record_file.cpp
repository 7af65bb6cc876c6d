// Opening and checking of record files, and the header shared with the writer.
#include "data/record_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "data/record_layout.h"
#include "io/hash.h"
#include "tern/error.h"

namespace tern::data {
namespace {

static_assert(std::endian::native == std::endian::little, "record files are little-endian");

[[noreturn]] void damaged(const std::filesystem::path& path, std::string_view section,
                          std::string_view reason) {
  throw_error(ExitCode::bad_data, "{}: the {} section is damaged: {}; {}", path, section, reason,
              prepare_again);
}

template <class T>
std::span<const T> typed(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace

RecordFile::RecordFile(const std::filesystem::path& path) : file_(path) {
  read_front();
  check_offsets();
}

void RecordFile::read_front() {
  const std::span<const std::byte> file = file_.bytes();
  FrontStart start;
  if (file.size() < sizeof start)
    damaged(path(), "front", format_text("the file has only {} bytes", file.size()));
  std::memcpy(&start, file.data(), sizeof start);
  if (start.magic != record_magic) damaged(path(), "front", "it does not begin as a record file");
  if (start.version != record_version) {
    throw_error(ExitCode::bad_data, "{}: must have format version {}, got {}; {}", path(), record_version,
                start.version, prepare_again);
  }
  if (start.header_bytes > record_header_cap || sizeof start + start.header_bytes > file.size()) {
    damaged(path(), "front", format_text("a header of {} bytes does not fit", start.header_bytes));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof start, start.header_bytes);
  try {
    header_ = parse_header(text, path());
  } catch (const Error& error) {
    damaged(path(), "front", error.what());
  }
  const RecordLayout layout = lay_out(header_, start.header_bytes);
  if (static_cast<std::uint64_t>(layout.file_bytes) != file.size()) {
    damaged(path(), layout.section_at(static_cast<std::int64_t>(file.size())),
            format_text("the file must have {} bytes, got {}", layout.file_bytes, file.size()));
  }
  layout_ = layout;
  if (io::hash_of(bytes_of(Section::front)) != stored_hash(Section::front)) {
    damaged(path(), "front", "its checksum differs");
  }
  for (std::size_t i = 1; i < layout.sections.size(); ++i) {
    const std::int64_t end = layout.sections[i - 1].begin + layout.sections[i - 1].bytes;
    const auto gap = file.subspan(static_cast<std::size_t>(end), static_cast<std::size_t>(gap_after(end, 64)));
    if (std::any_of(gap.begin(), gap.end(), [](std::byte byte) { return byte != std::byte{0}; })) {
      damaged(path(), section_names[i - 1], "the bytes behind it must be zero");
    }
  }
}

void RecordFile::check_offsets() {
  offsets_ = typed<std::uint64_t>(bytes_of(Section::offsets));
  std::uint64_t longest = 0;
  bool sound = offsets_.front() == 0 && offsets_.back() == static_cast<std::uint64_t>(header_.tokens);
  for (std::size_t i = 0; i + 1 < offsets_.size() && sound; ++i) {
    sound = offsets_[i] <= offsets_[i + 1];
    longest = std::max(longest, offsets_[i + 1] - offsets_[i]);
  }
  if (!sound) damaged(path(), "offsets", "they must rise from 0 to the number of tokens");
  if (longest != static_cast<std::uint64_t>(header_.longest)) {
    damaged(path(), "offsets",
            format_text("the longest sequence must have {} tokens, got {}", header_.longest, longest));
  }
}

std::span<const std::byte> RecordFile::bytes_of(Section section) const {
  const Extent extent = layout_.sections[static_cast<std::size_t>(section)];
  return file_.bytes().subspan(static_cast<std::size_t>(extent.begin), static_cast<std::size_t>(extent.bytes));
}

io::Hash128 RecordFile::stored_hash(Section section) const {
  const auto at = static_cast<std::size_t>(layout_.trailer) + 16 * static_cast<std::size_t>(section);
  return io::hash_from_bytes(file_.bytes().subspan(at).first<16>());
}

io::Hash128 RecordFile::content_hash() const {
  io::Hasher hasher;
  for (const Section section : {Section::tokens, Section::labels, Section::offsets})
    hasher.update(io::to_bytes(stored_hash(section)));
  return hasher.digest();
}

TokenSpan RecordFile::tokens(std::int64_t record, int which) const {
  require(record >= 0 && record < count() && which >= 0 && which < header_.sequences_per_record,
          "{}: a sequence must be one of {} records x {}, got record {}, sequence {}", path(), count(),
          header_.sequences_per_record, record, which);
  const auto sequence = static_cast<std::size_t>(record * header_.sequences_per_record + which);
  const std::uint64_t begin = offsets_[sequence], length = offsets_[sequence + 1] - begin;
  const std::span<const std::byte> bytes = bytes_of(Section::tokens);
  const auto view = [&]<class T>(std::span<const T> all) { return TokenSpan(all.subspan(begin, length)); };
  switch (header_.token_type) {
    case DType::uint8:
      return view(typed<std::uint8_t>(bytes));
    case DType::uint16:
      return view(typed<std::uint16_t>(bytes));
    default:
      return view(typed<std::int32_t>(bytes));
  }
}

std::int32_t RecordFile::label(std::int64_t record) const {
  require(header_.label_kind == LabelKind::classes, "{}: holds targets, not classes; read target()", path());
  require(record >= 0 && record < count(), "{}: a record must be one of {}, got {}", path(), count(), record);
  const std::int32_t label = typed<std::int32_t>(bytes_of(Section::labels))[static_cast<std::size_t>(record)];
  if (label < 0 || label >= header_.classes) {
    throw_error(ExitCode::bad_data, "{}: the label of record {} must lie in [0, {}), got {}; {}", path(),
                record, header_.classes, label, prepare_again);
  }
  return label;
}

float RecordFile::target(std::int64_t record) const {
  require(header_.label_kind == LabelKind::target, "{}: holds classes, not targets; read label()", path());
  require(record >= 0 && record < count(), "{}: a record must be one of {}, got {}", path(), count(), record);
  const float target = typed<float>(bytes_of(Section::labels))[static_cast<std::size_t>(record)];
  if (!std::isfinite(target)) {
    throw_error(ExitCode::bad_data, "{}: the target of record {} must be finite, got {}; {}", path(), record,
                target, prepare_again);
  }
  return target;
}

void RecordFile::verify() const {
  if (verified_) return;
  for (const Section section : {Section::front, Section::tokens, Section::labels, Section::offsets}) {
    if (io::hash_of(bytes_of(section)) != stored_hash(section)) {
      damaged(path(), section_names[static_cast<std::size_t>(section)], "its checksum differs");
    }
  }
  check_ranges();
  verified_ = true;
}

void RecordFile::check_ranges() const {
  for (std::int64_t record = 0; record < count(); ++record) {
    if (header_.label_kind == LabelKind::classes) label(record);
    if (header_.label_kind == LabelKind::target) target(record);
    for (int which = 0; which < header_.sequences_per_record; ++which) {
      tokens(record, which).visit([&](auto ids) {
        std::int32_t low = 0, high = 0;
        for (const auto id : ids) {
          low = std::min(low, static_cast<std::int32_t>(id));
          high = std::max(high, static_cast<std::int32_t>(id));
        }
        if (low < 0 || high >= header_.vocabulary) fail_token(record, low < 0 ? low : high);
      });
    }
  }
}

void RecordFile::fail_token(std::int64_t record, std::int64_t id) const {
  throw_error(ExitCode::bad_data, "{}: the ids of record {} must lie in [0, {}), got {}; {}", path(), record,
              header_.vocabulary, id, prepare_again);
}

}  // namespace tern::data
