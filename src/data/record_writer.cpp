// Writing of record files: tokens go to disk as they come; labels and offsets wait in memory for finish().
#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/record_file.h"
#include "data/record_layout.h"
#include "io/atomic_file.h"
#include "io/hash.h"
#include "tern/error.h"

namespace tern::data {
namespace {

/// The longest header that a file with these names can get: the front is reserved before the counts are known.
std::uint32_t reserved_header_bytes(RecordHeader header) {
  header.records = header.tokens = header.longest = INT64_MAX;
  return static_cast<std::uint32_t>(header_text(header).size());
}

template <class T>
void append_as(std::span<const std::int32_t> ids, std::vector<std::byte>& out) {
  for (const std::int32_t id : ids) {
    const T value = static_cast<T>(id);
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
}

}  // namespace

struct RecordWriter::State {
  State(const std::filesystem::path& path, RecordHeader start)
      : header(std::move(start)), header_bytes(reserved_header_bytes(header)), file(path) {
    const std::int64_t front = lay_out(header, header_bytes).sections[0].bytes;
    file.write(std::vector<std::byte>(static_cast<std::size_t>(front)));
  }

  void require_kind(LabelKind kind) const {
    require(header.label_kind == kind, "{}: records must be labelled as the header says: {}", file.target(),
            header.label_kind == LabelKind::classes ? "a class" : "a target");
  }

  /// Adds one sequence of ids whose bytes are given, and checks them.
  void add_sequence(std::span<const std::byte> bytes, std::int64_t length, std::int32_t low,
                    std::int32_t high) {
    if (low < 0 || high >= header.vocabulary) {
      throw_error(ExitCode::bad_data,
                  "{}: the ids of record {} must lie in [0, {}), got {}; check the data's source",
                  file.target(), labels.size(), header.vocabulary, low < 0 ? low : high);
    }
    file.write(bytes);
    hasher.update(bytes);
    header.tokens += length;
    header.longest = std::max(header.longest, length);
    offsets.push_back(static_cast<std::uint64_t>(header.tokens));
  }

  void add_sequences(std::span<const std::span<const std::int32_t>> sequences) {
    require(static_cast<int>(sequences.size()) == header.sequences_per_record,
            "{}: a record must have {} sequences, got {}", file.target(), header.sequences_per_record,
            sequences.size());
    for (const std::span<const std::int32_t> ids : sequences) {
      const auto [low, high] = std::minmax_element(ids.begin(), ids.end());
      encoded.clear();
      if (header.token_type == DType::uint8) append_as<std::uint8_t>(ids, encoded);
      if (header.token_type == DType::uint16) append_as<std::uint16_t>(ids, encoded);
      if (header.token_type == DType::int32) append_as<std::int32_t>(ids, encoded);
      add_sequence(encoded, static_cast<std::int64_t>(ids.size()), ids.empty() ? 0 : *low,
                   ids.empty() ? 0 : *high);
    }
  }

  void check_class(std::int32_t label) const {
    if (label < 0 || label >= header.classes) {
      throw_error(ExitCode::bad_data,
                  "{}: the label of record {} must lie in [0, {}), got {}; check the data's source",
                  file.target(), labels.size(), header.classes, label);
    }
  }

  template <class T>
  void add_label(T label) {
    std::uint32_t bits = 0;
    static_assert(sizeof label == sizeof bits);
    std::memcpy(&bits, &label, sizeof bits);
    labels.push_back(bits);
  }

  /// Writes one section behind blanks and returns its hash.
  io::Hash128 write_section(std::span<const std::byte> bytes, Extent extent) {
    file.write(std::vector<std::byte>(static_cast<std::size_t>(extent.begin - file.size())));
    file.write(bytes);
    return io::hash_of(bytes);
  }

  /// The front section: start, header, blanks.
  std::vector<std::byte> front() const {
    std::string text = header_text(header);
    text.append(header_bytes - text.size(), ' ');
    FrontStart start;
    start.header_bytes = header_bytes;
    std::vector<std::byte> bytes(static_cast<std::size_t>(lay_out(header, header_bytes).sections[0].bytes));
    std::memcpy(bytes.data(), &start, sizeof start);
    std::memcpy(bytes.data() + sizeof start, text.data(), text.size());
    return bytes;
  }

  RecordHeader header;
  std::uint32_t header_bytes;
  io::AtomicFile file;
  io::Hasher hasher;  // of the tokens
  std::vector<std::byte> encoded;
  std::vector<std::uint32_t> labels;
  std::vector<std::uint64_t> offsets{0};
};

RecordWriter::RecordWriter(const std::filesystem::path& path, RecordHeader header) {
  header.records = header.tokens = header.longest = 0;
  const std::string fault = header_fault(header);
  require(fault.empty(), "{}: {}", path, fault);
  const std::uint32_t header_bytes = reserved_header_bytes(header);
  require(header_bytes <= record_header_cap,
          "{}: the header must be at most {} bytes, got {}; shorten its options", path, record_header_cap,
          header_bytes);
  state_ = std::make_unique<State>(path, std::move(header));
}

RecordWriter::~RecordWriter() = default;

void RecordWriter::append(std::span<const std::span<const std::int32_t>> sequences, std::int32_t label) {
  state_->require_kind(LabelKind::classes);
  state_->check_class(label);
  state_->add_sequences(sequences);
  state_->add_label(label);
}

void RecordWriter::append(std::span<const std::span<const std::int32_t>> sequences, float target) {
  state_->require_kind(LabelKind::target);
  if (!std::isfinite(target)) {
    throw_error(ExitCode::bad_data,
                "{}: the target of record {} must be finite, got {}; check the data's source",
                state_->file.target(), state_->labels.size(), target);
  }
  state_->add_sequences(sequences);
  state_->add_label(target);
}

void RecordWriter::append(std::span<const std::uint8_t> sequence, std::int32_t label) {
  state_->require_kind(LabelKind::classes);
  state_->check_class(label);
  require(state_->header.token_type == DType::uint8 && state_->header.sequences_per_record == 1,
          "{}: bytes can only be appended to a file of single uint8 sequences", state_->file.target());
  const std::int32_t high = sequence.empty() ? 0 : *std::max_element(sequence.begin(), sequence.end());
  state_->add_sequence(std::as_bytes(sequence), static_cast<std::int64_t>(sequence.size()), 0, high);
  state_->add_label(label);
}

RecordHeader RecordWriter::finish() {
  State& state = *state_;
  state.header.records = static_cast<std::int64_t>(state.labels.size());
  const std::string fault = header_fault(state.header);
  require(fault.empty(), "{}: {}", state.file.target(), fault);
  const RecordLayout layout = lay_out(state.header, state.header_bytes);
  const std::vector<std::byte> front = state.front();
  std::array<io::Hash128, 4> hashes;
  hashes[0] = io::hash_of(front);
  hashes[1] = state.hasher.digest();
  hashes[2] = state.write_section(std::as_bytes(std::span(state.labels)), layout.sections[2]);
  hashes[3] = state.write_section(std::as_bytes(std::span(state.offsets)), layout.sections[3]);
  for (const io::Hash128 hash : hashes) state.file.write(io::to_bytes(hash));
  ensure(state.file.size() == layout.file_bytes, "{} has {} bytes in place of {}", state.file.target(),
         state.file.size(), layout.file_bytes);
  state.file.overwrite(0, front);
  state.file.commit();
  return state.header;
}

}  // namespace tern::data
