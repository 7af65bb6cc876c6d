// Reading what users have: a folder, an archive, or one file, plain or compressed, as one sequence of named
// files. Names are compared and shown, and never used to write anywhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "io/hash.h"

namespace tern::io {

/// Chooses files of a source by their name.
using NameFilter = std::function<bool(std::string_view name)>;

/// "a.tsv.gz" -> "a.tsv": the name of a file without the ending of its compression.
std::string without_compression(std::string name);
/// Drops what remains of a line's end CR LF where the LF is gone.
void drop_carriage_return(std::string& line);

/// What a source holds, so that equal ones can be told.
struct SourceFingerprint {
  std::string name;        ///< last part of the path
  std::int64_t files = 0;  ///< 1, or the files of a folder
  std::int64_t bytes = 0;  ///< as stored
  /// XXH3-128 of the file as stored; for a folder, of one line "<hex digits of the file> <name>\n" for each.
  Hash128 hash;
  bool operator==(const SourceFingerprint&) const = default;
};

/// The files that `wanted` chooses (without it, all), each read once from front to back.
///
/// - a folder: the files below it in the order of their names (bytes compared), links to files followed;
///   a file compressed by gzip, xz, bzip2 or zstd counts under its name without that ending;
/// - an archive (tar, zip, 7z; compressed or not, whatever it is called): its files in their order;
/// - any other file: itself, under its name without the ending of a compressed file.
///
/// Names are relative to the source, with "/" between their parts. Damage is Error(bad_data) naming the source,
/// and the file inside where there is one; Error(missing_input) and Error(io_error) where the disk refuses.
class SourceFiles {
 public:
  static constexpr std::int64_t default_cap = std::int64_t{1} << 26;

  /// Error(missing_input) if there is no such file or folder.
  explicit SourceFiles(std::filesystem::path path, NameFilter wanted = {});
  ~SourceFiles();
  SourceFiles(const SourceFiles&) = delete;
  SourceFiles& operator=(const SourceFiles&) = delete;

  /// Moves to the next file; false behind the last. After an error in one file the next can be tried; an
  /// archive that cannot be read on fails again.
  bool next();
  const std::string& name() const;
  /// The file as messages name it: "aclImdb.tar.gz: aclImdb/test/pos/0_9.txt", or "pairs.tsv:17" once lines of
  /// it were read.
  std::string where() const;

  /// The rest of the file. Error(bad_data) beyond `cap` bytes.
  std::string read(std::int64_t cap = default_cap);
  /// The next line without its end, LF or CR LF; false at the end of the file. The last line may lack its LF.
  /// Error(bad_data) beyond `cap` bytes.
  bool read_line(std::string& line, std::int64_t cap = default_cap);
  /// Lines read of this file, so the number of the newest, counted from 1.
  std::int64_t line() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads all bytes that a SourceFiles with equal arguments could give; errors as there.
SourceFingerprint fingerprint_of(const std::filesystem::path& path, const NameFilter& wanted = {});

}  // namespace tern::io
