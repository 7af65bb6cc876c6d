#include "io/atomic_file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include <sys/statvfs.h>
#include <unistd.h>

#include "tern/error.h"

namespace tern::io {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{1} << 20;

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// Unique among the living processes of a machine; a dead process's leftover is replaced.
std::filesystem::path temporary_name(const std::filesystem::path& target) {
  static std::atomic<int> serial = 0;
  return folder_of(target) /
         format_text("{}{}-{}-{}", temporary_prefix, target.filename().string(), ::getpid(), ++serial);
}

std::unique_ptr<OutputFile> open_temporary(const std::filesystem::path& target) {
  require(target.has_filename(), "{}: a file needs a name; the path must not end with a separator", target);
  const std::filesystem::path name = temporary_name(target);
  std::error_code ignored;
  if (std::filesystem::exists(std::filesystem::symlink_status(name, ignored))) remove_path(name);
  return std::make_unique<OutputFile>(name, OutputFile::Mode::create_new);
}

/// `path`, or its nearest parent that exists.
std::filesystem::path nearest_existing(const std::filesystem::path& path) {
  std::filesystem::path nearest = path.empty() ? std::filesystem::path(".") : path;
  std::error_code ignored;
  while (!std::filesystem::exists(nearest, ignored) && nearest != folder_of(nearest))
    nearest = folder_of(nearest);
  return nearest;
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path target)
    : target_(std::move(target)), file_(open_temporary(target_)) {
  buffer_.reserve(buffer_bytes);
}

AtomicFile::~AtomicFile() {
  if (!file_) return;
  try {
    remove_path(file_->path());
  } catch (const Error&) {
    // A destructor cannot report; the leftover carries temporary_prefix and goes with remove_temporaries().
  }
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  require(file_ != nullptr, "{}: the file is complete; nothing can be written to it", target_);
  size_ += static_cast<std::int64_t>(bytes.size());
  if (buffer_.size() + bytes.size() > buffer_bytes) flush();
  if (bytes.size() >= buffer_bytes) {
    file_->write(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void AtomicFile::overwrite(std::int64_t offset, std::span<const std::byte> bytes) {
  require(file_ != nullptr, "{}: the file is complete; nothing can be written to it", target_);
  require(offset >= 0 && offset + static_cast<std::int64_t>(bytes.size()) <= size_,
          "{}: only the {} bytes written so far can be replaced, got bytes {} ... {}", target_, size_, offset,
          offset + static_cast<std::int64_t>(bytes.size()));
  flush();
  file_->write_at(offset, bytes);
}

void AtomicFile::flush() {
  if (buffer_.empty()) return;
  file_->write(buffer_);
  buffer_.clear();
}

void AtomicFile::commit() {
  require(file_ != nullptr, "{}: the file is complete already", target_);
  flush();
  file_->sync();
  file_->close();
  rename_path(file_->path(), target_);
  file_.reset();
  sync_directory(folder_of(target_));
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::filesystem::path& path, std::int64_t cap) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), &std::fclose);
  if (!file) {
    throw_error(ExitCode::missing_input, "{}: must be a readable file, got: {}; check the path", path,
                std::generic_category().message(errno));
  }
  std::string text;
  char block[4096];
  std::size_t count = 0;
  while ((count = std::fread(block, 1, sizeof block, file.get())) > 0) {
    text.append(block, count);
    if (static_cast<std::int64_t>(text.size()) > cap) {
      throw_error(ExitCode::bad_data, "{}: must be at most {} bytes; is it the right file?", path, cap);
    }
  }
  if (std::ferror(file.get()) != 0) {
    throw_error(ExitCode::missing_input, "{}: must be a readable file, got: {}; check the path", path,
                std::generic_category().message(errno));
  }
  return text;
}

void make_directory(const std::filesystem::path& path) {
  const std::filesystem::path clean = path.has_filename() ? path : path.parent_path();
  std::error_code ignored;
  if (clean.empty() || std::filesystem::is_directory(clean, ignored)) return;
  make_directory(clean.parent_path());
  if (make_single_directory(clean)) sync_directory(folder_of(clean));
}

void remove_tree(const std::filesystem::path& path) {
  std::error_code failure;
  if (std::filesystem::symlink_status(path, failure).type() == std::filesystem::file_type::directory) {
    std::vector<std::filesystem::path> entries;
    for (std::filesystem::directory_iterator entry(path, failure), end; !failure && entry != end;
         entry.increment(failure)) {
      entries.push_back(entry->path());
    }
    for (const auto& entry : entries) remove_tree(entry);
  }
  remove_path(path);
}

int remove_temporaries(const std::filesystem::path& folder) {
  std::error_code failure;
  std::vector<std::filesystem::path> found;
  for (std::filesystem::directory_iterator entry(folder, failure), end; !failure && entry != end;
       entry.increment(failure)) {
    if (entry->path().filename().string().starts_with(temporary_prefix)) found.push_back(entry->path());
  }
  for (const auto& path : found) remove_tree(path);
  return static_cast<int>(found.size());
}

std::int64_t free_bytes(const std::filesystem::path& path) {
  struct statvfs status {};
  if (::statvfs(nearest_existing(path).c_str(), &status) == -1) {
    throw_error(ExitCode::io_error, "{}: the free space must be readable, got: {}; check the path", path,
                std::generic_category().message(errno));
  }
  return static_cast<std::int64_t>(status.f_bavail * status.f_frsize);
}

bool is_writable(const std::filesystem::path& folder) {
  return ::access((nearest_existing(folder) / ".").c_str(), W_OK | X_OK) == 0;
}

}  // namespace tern::io
