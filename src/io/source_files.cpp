#include "io/source_files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "io/archive.h"
#include "tern/error.h"

namespace tern::io {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t buffer_bytes = std::size_t{1} << 18;

class PlainFile : public Container {
 public:
  explicit PlainFile(const fs::path& path) : path_(path), file_(std::fopen(path.c_str(), "rbe"), &std::fclose) {
    if (!file_) fail(ExitCode::missing_input);
  }
  bool next() override { return std::exchange(is_before_, false); }
  const std::string& name() const override { return name_; }
  std::size_t read(std::span<std::byte> into) override {
    const std::size_t count = std::fread(into.data(), 1, into.size(), file_.get());
    if (count == 0 && std::ferror(file_.get()) != 0) fail(ExitCode::io_error);
    return count;
  }
  /// The first bytes, without consuming them; fewer from a shorter file.
  std::string start(std::size_t bytes) {
    std::string text(bytes, '\0');
    text.resize(std::fread(text.data(), 1, bytes, file_.get()));
    if (std::ferror(file_.get()) != 0) fail(ExitCode::io_error);
    std::rewind(file_.get());
    return text;
  }

 private:
  [[noreturn]] void fail(ExitCode code) const {
    throw_error(code, "{}: must be a readable file, got: {}; check its permissions and the disk", path_,
                std::generic_category().message(errno));
  }

  fs::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  bool is_before_ = true;
  std::string name_;  // empty: the file itself
};

/// Whether a file that begins so is an archive or compressed.
bool is_packed(std::string_view start) {
  constexpr std::size_t tar_mark = 257;
  for (const std::string_view mark :
       {"\x1f\x8b",
        "\xfd"
        "7zXZ",
        "BZh", "\x28\xb5\x2f\xfd", "\x04\x22\x4d\x18", "PK\x03\x04", "PK\x05\x06", "7z\xbc\xaf\x27\x1c"})
    if (start.starts_with(mark)) return true;
  return start.size() > tar_mark && start.substr(tar_mark).starts_with("ustar");
}

std::unique_ptr<Container> open_container(const fs::path& path) {
  auto file = std::make_unique<PlainFile>(path);
  if (is_packed(file->start(512))) return open_archive(path);
  return file;
}

/// "data/" and "data" are both called data.
fs::path last_part(const fs::path& path) {
  return path.has_filename() ? path.filename() : path.parent_path().filename();
}

struct FolderFile {
  fs::path path;
  std::string name;
};

std::vector<FolderFile> files_below(const fs::path& folder, const NameFilter& wanted) {
  std::vector<FolderFile> files;
  std::error_code failure;
  fs::recursive_directory_iterator entry(folder, failure);
  for (const fs::recursive_directory_iterator end; !failure && entry != end; entry.increment(failure)) {
    std::string name = without_compression(entry->path().lexically_relative(folder).generic_string());
    std::error_code ignored;
    if (entry->is_regular_file(ignored) && (!wanted || wanted(name)))
      files.push_back({entry->path(), std::move(name)});
  }
  if (failure)
    throw_error(ExitCode::bad_data, "{}: every folder in it must be readable, got: {}; check the permissions",
                folder, failure.message());
  std::sort(files.begin(), files.end(), [](const FolderFile& a, const FolderFile& b) {
    return std::tie(a.name, a.path) < std::tie(b.name, b.path);
  });
  return files;
}

void require_there(const fs::path& path) {
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  if (fs::is_directory(status) || fs::is_regular_file(status)) return;
  throw_error(ExitCode::missing_input, "{}: must be a file, an archive or a folder, got {}; check the path",
              path, fs::exists(status) ? "something else" : "nothing there");
}

}  // namespace

std::string without_compression(std::string name) {
  constexpr std::array<std::string_view, 4> endings{".gz", ".xz", ".bz2", ".zst"};
  for (const std::string_view ending : endings)
    if (name.size() > ending.size() && name.ends_with(ending))
      return name.substr(0, name.size() - ending.size());
  return name;
}

void drop_carriage_return(std::string& line) {
  if (line.ends_with('\r')) line.pop_back();
}

struct SourceFiles::State {
  fs::path root;
  NameFilter wanted;
  bool is_folder = false;
  std::vector<FolderFile> files;
  std::size_t at = 0;                    // the next of `files`
  std::unique_ptr<Container> container;  // what is read now
  std::string name, inside;              // inside: name in the container, or empty
  std::vector<std::byte> buffer = std::vector<std::byte>(buffer_bytes);
  std::span<const std::byte> rest;  // of the buffer
  std::int64_t line = 0;

  /// Opens the next file on disk; false behind the last.
  bool open_next() {
    container.reset();
    if (at == files.size()) return false;
    ++at;
    container = open_container(files[at - 1].path);
    return true;
  }
  const FolderFile& file() const { return files[at - 1]; }

  bool fill() {
    if (rest.empty() && container) rest = std::span(buffer).first(container->read(buffer));
    return !rest.empty();
  }
  void take(std::size_t count, std::string& text, std::int64_t cap) {
    if (static_cast<std::int64_t>(text.size() + count) > cap)
      throw_error(ExitCode::bad_data, "{}: must have at most {} bytes; is it the right file?", where(), cap);
    text.append(reinterpret_cast<const char*>(rest.data()), count);
    rest = rest.subspan(count);
  }
  std::string where() const {
    const std::string file = at == 0 ? root.string() : files[at - 1].path.string();
    return file + (inside.empty() ? "" : ": " + inside) + (line > 0 ? ":" + std::to_string(line) : "");
  }
};

SourceFiles::SourceFiles(fs::path path, NameFilter wanted) : state_(std::make_unique<State>()) {
  require_there(path);
  state_->is_folder = fs::is_directory(path);
  if (state_->is_folder) {
    state_->files = files_below(path, wanted);
  } else {
    state_->files = {{path, without_compression(last_part(path).string())}};
  }
  state_->root = std::move(path);
  state_->wanted = std::move(wanted);
}

SourceFiles::~SourceFiles() = default;

bool SourceFiles::next() {
  State& state = *state_;
  for (;;) {
    state.rest = {};
    state.line = 0;
    state.inside.clear();
    if (!state.container && !state.open_next()) return false;
    if (!state.container->next()) {
      state.container.reset();
      continue;
    }
    state.inside = state.container->name();
    if (state.is_folder && !state.inside.empty())
      throw_error(ExitCode::bad_data, "{}: an archive inside a folder is not read; name the archive itself",
                  state.file().path);
    state.name = state.inside.empty() ? state.file().name : state.inside;
    if (state.is_folder || !state.wanted || state.wanted(state.name)) return true;
  }
}

const std::string& SourceFiles::name() const { return state_->name; }
std::string SourceFiles::where() const { return state_->where(); }
std::int64_t SourceFiles::line() const { return state_->line; }

std::string SourceFiles::read(std::int64_t cap) {
  std::string text;
  while (state_->fill()) state_->take(state_->rest.size(), text, cap);
  return text;
}

bool SourceFiles::read_line(std::string& line, std::int64_t cap) {
  State& state = *state_;
  line.clear();
  if (!state.fill()) return false;
  ++state.line;
  while (state.fill()) {
    const void* end = std::memchr(state.rest.data(), '\n', state.rest.size());
    if (end == nullptr) {
      state.take(state.rest.size(), line, cap);
      continue;
    }
    state.take(static_cast<std::size_t>(static_cast<const std::byte*>(end) - state.rest.data()), line, cap);
    state.rest = state.rest.subspan(1);
    break;
  }
  drop_carriage_return(line);
  return true;
}

SourceFingerprint fingerprint_of(const fs::path& path, const NameFilter& wanted) {
  require_there(path);
  SourceFingerprint print;
  print.name = last_part(path).string();
  if (!fs::is_directory(path)) {
    print.files = 1;
    print.bytes = static_cast<std::int64_t>(fs::file_size(path));
    print.hash = hash_of_file(path);
    return print;
  }
  Hasher hasher;
  for (const FolderFile& file : files_below(path, wanted)) {
    const std::string text = format_text("{} {}\n", to_hex(hash_of_file(file.path)), file.name);
    hasher.update(std::as_bytes(std::span(text)));
    ++print.files;
    print.bytes += static_cast<std::int64_t>(fs::file_size(file.path));
  }
  print.hash = hasher.digest();
  return print;
}

}  // namespace tern::io
