// Prepared splits: sequences of token ids with labels, in one memory-mapped file.
//
//   front    "ternrecs", version (uint32), length of the JSON header (uint32), the header;
//            zeros up to a multiple of 4096 bytes
//   tokens   uint8, uint16 or int32, all sequences one after another
//   labels   int32 (classes) or float32 (targets), one a record; begins at a multiple of 64 bytes
//   offsets  uint64 [sequences + 1], in tokens; begins at a multiple of 64 bytes
//   trailer  XXH3-128 of front, tokens, labels and offsets (16 bytes each)
//
// All little-endian. Record r with s sequences owns sequences r * s ... r * s + s - 1. The sections' places
// follow from the header's counts.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "data/record_layout.h"
#include "io/hash.h"
#include "io/mapped_file.h"
#include "tern/device.h"

namespace tern::data {

enum class LabelKind : std::uint8_t { classes, target };  ///< int32 class, or float32 regression target

struct RecordHeader {
  std::string task, split;
  std::string options = "{}";  ///< JSON object: how the data was made
  std::uint64_t seed = 0;
  std::int64_t vocabulary = 0;      ///< ids lie in [0, vocabulary); 0 is padding
  std::int64_t classes = 0;         ///< labels lie in [0, classes); 0 for targets
  int sequences_per_record = 1;     ///< 1, or 2 for pairs
  DType token_type = DType::uint8;  ///< uint8, uint16 or int32
  LabelKind label_kind = LabelKind::classes;
  std::int64_t padded_length = 0;  ///< the published length that sequences are padded to
  // Set by the writer:
  std::int64_t records = 0;
  std::int64_t tokens = 0;
  std::int64_t longest = 0;  ///< tokens of the longest sequence
};

/// The ids of one sequence, in the type they are stored in.
class TokenSpan {
 public:
  using Variant = std::variant<std::span<const std::uint8_t>, std::span<const std::uint16_t>,
                               std::span<const std::int32_t>>;
  explicit TokenSpan(Variant ids) : ids_(ids) {}
  std::int64_t size() const {
    return std::visit([](auto ids) { return static_cast<std::int64_t>(ids.size()); }, ids_);
  }
  std::int32_t operator[](std::int64_t i) const {
    return std::visit([i](auto ids) { return static_cast<std::int32_t>(ids[static_cast<std::size_t>(i)]); },
                      ids_);
  }
  /// Calls visit with the typed span.
  template <class Visitor>
  decltype(auto) visit(Visitor&& visitor) const {
    return std::visit(std::forward<Visitor>(visitor), ids_);
  }

 private:
  Variant ids_;
};

/// An open split. Safe to read from several threads.
class RecordFile {
 public:
  /// Checks structure, sizes, the header's checksum and every offset. Error(missing_input) without the file,
  /// Error(bad_data) naming file, section and fix for a damaged one. Linear in the number of sequences.
  explicit RecordFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const RecordHeader& header() const { return header_; }
  std::int64_t count() const { return header_.records; }

  /// Sequence `which` (0 or 1) of a record. Error(failed) for a place outside the file.
  TokenSpan tokens(std::int64_t record, int which = 0) const;
  /// Class of a record. Error(bad_data) naming the record if it lies outside the classes.
  std::int32_t label(std::int64_t record) const;
  /// Target of a record.
  float target(std::int64_t record) const;

  /// Hashes all sections and checks each id and label; work is done once, later calls return at once.
  /// Error(bad_data) naming the section or the record. Linear in the file's size.
  void verify() const;

  /// Of tokens, labels and lengths: equal for the same records, wherever they were made from. Read from the
  /// trailer, so only as sound as verify() finds the file.
  io::Hash128 content_hash() const;

  /// Throws the Error(bad_data) for an id outside the vocabulary.
  [[noreturn]] void fail_token(std::int64_t record, std::int64_t id) const;

 private:
  std::span<const std::byte> bytes_of(Section section) const;
  io::Hash128 stored_hash(Section section) const;
  void read_front();
  void check_offsets();
  void check_ranges() const;

  io::MappedFile file_;
  RecordHeader header_;
  RecordLayout layout_;
  std::span<const std::uint64_t> offsets_;
  mutable std::atomic<bool> verified_ = false;
};

/// Writes a split record by record; nothing is visible under the path before finish(). Memory: 8 bytes a
/// sequence and 4 a record.
class RecordWriter {
 public:
  /// Error(failed) for a header that contradicts itself; errors of the disk as in io::AtomicFile.
  RecordWriter(const std::filesystem::path& path, RecordHeader header);
  ~RecordWriter();

  /// Appends one record of sequences_per_record sequences. Error(bad_data) naming the record for ids or labels
  /// outside their range.
  void append(std::span<const std::span<const std::int32_t>> sequences, std::int32_t label);
  void append(std::span<const std::span<const std::int32_t>> sequences, float target);
  /// One sequence of uint8 ids, the type the file must have.
  void append(std::span<const std::uint8_t> sequence, std::int32_t label);
  /// Completes the file and returns its header with all counts.
  RecordHeader finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tern::data
