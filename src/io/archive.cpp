// Archives through libarchive. gzip goes through zlib, which checks the sums that libarchive 3.6 does not.
#include "io/archive.h"

#include <array>
#include <cerrno>
#include <fstream>
#include <string_view>
#include <system_error>

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

#include "tern/error.h"

namespace tern::io {
namespace {

constexpr std::size_t block_bytes = std::size_t{1} << 18;

/// A gzip file as libarchive's input, unpacked.
class GzipInput {
 public:
  explicit GzipInput(const std::filesystem::path& path) : file_(gzopen(path.c_str(), "rbe")) {}
  ~GzipInput() {
    if (file_ != nullptr) gzclose_r(file_);
  }
  GzipInput(const GzipInput&) = delete;
  GzipInput& operator=(const GzipInput&) = delete;

  bool is_open() const { return file_ != nullptr; }
  /// Reads up to one block; false for damage, whose description is fault().
  bool read() {
    const int count = gzread(file_, block_.data(), static_cast<unsigned>(block_.size()));
    size_ = count < 0 ? 0 : static_cast<std::size_t>(count);
    // A truncated file first gives what it has; only the error state tells.
    int code = Z_OK;
    const char* text = gzerror(file_, &code);
    if (count >= 0 && (code == Z_OK || code == Z_STREAM_END)) return true;
    fault_ = text == nullptr || *text == '\0' ? "damaged gzip data" : text;
    return false;
  }
  const char* data() const { return block_.data(); }
  std::size_t size() const { return size_; }
  const std::string& fault() const { return fault_; }

 private:
  gzFile file_;
  std::array<char, block_bytes> block_;
  std::size_t size_ = 0;
  std::string fault_;
};

la_ssize_t read_gzip(archive* reader, void* input, const void** block) {
  auto& gzip = *static_cast<GzipInput*>(input);
  if (!gzip.read()) {
    archive_set_error(reader, EILSEQ, "%s", gzip.fault().c_str());
    return -1;
  }
  *block = gzip.data();
  return static_cast<la_ssize_t>(gzip.size());
}

bool is_gzip(const std::filesystem::path& path) {
  std::array<char, 2> start{};
  std::ifstream(path, std::ios::binary).read(start.data(), start.size());
  return start[0] == '\x1f' && start[1] == '\x8b';
}

class Archive : public Container {
 public:
  explicit Archive(const std::filesystem::path& path) : path_(path), reader_(archive_read_new()) {
    require(reader_ != nullptr, "{}: memory is needed to read it, got none", path);
    archive* reader = reader_.get();
    archive_read_support_format_tar(reader);
    archive_read_support_format_zip(reader);
    archive_read_support_format_7zip(reader);
    archive_read_support_format_raw(reader);
    archive_read_support_format_empty(reader);
    archive_read_support_filter_gzip(reader);
    archive_read_support_filter_xz(reader);
    archive_read_support_filter_bzip2(reader);
    archive_read_support_filter_zstd(reader);
    archive_read_support_filter_lz4(reader);
    int code = ARCHIVE_OK;
    if (is_gzip(path)) {
      gzip_ = std::make_unique<GzipInput>(path);
      if (!gzip_->is_open()) fail(std::generic_category().message(errno));
      code = archive_read_open(reader, gzip_.get(), nullptr, &read_gzip, nullptr);
    } else {
      code = archive_read_open_filename(reader, path.c_str(), block_bytes);
    }
    if (code < ARCHIVE_WARN) fail();
  }

  bool next() override {
    if (!fault_.empty()) fail(fault_);  // behind damage nothing can be trusted
    name_.clear();
    refusal_.clear();
    archive_entry* entry = nullptr;
    for (;;) {
      const int code = archive_read_next_header(reader_.get(), &entry);
      if (code == ARCHIVE_EOF) return check_end();
      if (code == ARCHIVE_RETRY) continue;
      if (code < ARCHIVE_WARN) fail();
      if (archive_entry_filetype(entry) != AE_IFDIR) break;
    }
    if (archive_format(reader_.get()) != ARCHIVE_FORMAT_RAW) check_entry(*entry);
    return true;
  }

  const std::string& name() const override { return name_; }

  std::size_t read(std::span<std::byte> into) override {
    if (!refusal_.empty()) refuse(refusal_);
    la_ssize_t count = ARCHIVE_RETRY;
    while (count == ARCHIVE_RETRY) count = archive_read_data(reader_.get(), into.data(), into.size());
    if (count < 0) fail();
    return static_cast<std::size_t>(count);
  }

 private:
  struct Free {
    void operator()(archive* reader) const { archive_read_free(reader); }
  };

  void check_entry(archive_entry& entry) {
    const char* name = archive_entry_pathname(&entry);
    if (name == nullptr) name = archive_entry_pathname_utf8(&entry);
    std::string_view view = name == nullptr ? "" : name;
    while (view.starts_with("./")) view.remove_prefix(2);
    name_ = view;
    if (name_.empty()) fail("an entry without a name");
    // Only what is read is refused: an archive may hold links that nobody asks for.
    if (archive_entry_filetype(&entry) != AE_IFREG || archive_entry_hardlink(&entry) != nullptr)
      refusal_ = "a link or device in place of a file";
    else if (archive_entry_is_encrypted(&entry) == 1)
      refusal_ = "an encrypted file";
  }

  /// What follows the last entry belongs to the sum of a gzip file.
  bool check_end() {
    while (gzip_ && gzip_->size() > 0)
      if (!gzip_->read()) fail(gzip_->fault());
    return false;
  }

  [[noreturn]] void fail() {
    const char* text = archive_error_string(reader_.get());
    fail(text == nullptr ? "damaged data" : text);
  }
  [[noreturn]] void fail(const std::string& reason) {
    fault_ = reason;
    refuse(reason);
  }
  [[noreturn]] void refuse(const std::string& reason) const {
    throw_error(ExitCode::bad_data, "{}{}{}: must be readable, got: {}; get the file again", path_,
                name_.empty() ? "" : ": ", name_, reason);
  }

  std::filesystem::path path_;
  std::unique_ptr<GzipInput> gzip_;
  std::unique_ptr<archive, Free> reader_;  // before gzip_ in destruction
  std::string name_, fault_;
  std::string refusal_;  // why the entry at hand cannot be read
};

}  // namespace

bool has_archive() { return true; }

std::unique_ptr<Container> open_archive(const std::filesystem::path& path) {
  return std::make_unique<Archive>(path);
}

}  // namespace tern::io
