// Writing system calls, their errors as messages, and injected faults.
#include "io/file_system.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tern/error.h"

namespace tern::io {
namespace {

enum class FaultEffect : std::uint8_t { enospc, eio, short_write, kill };

struct FaultPlan {
  std::optional<FileCall> call;  // nothing: any call
  std::int64_t at = 0;           // 0: no fault
  FaultEffect effect = FaultEffect::eio;
};

constexpr std::array<std::string_view, 6> call_names{"open", "write", "fsync", "rename", "mkdir", "unlink"};
constexpr std::array<std::string_view, 4> effect_names{"enospc", "eio", "short", "kill"};

FaultPlan read_plan() {
  const char* text = std::getenv("TERN_FAULT");
  if (text == nullptr || *text == '\0') return {};
  const std::string_view plan(text);
  const std::size_t first = plan.find(':'), second = plan.find(':', std::min(first, plan.size() - 1) + 1);
  FaultPlan parsed;
  bool good = first != plan.npos && second != plan.npos;
  if (good) {
    const auto call = std::find(call_names.begin(), call_names.end(), plan.substr(0, first));
    const auto effect = std::find(effect_names.begin(), effect_names.end(), plan.substr(second + 1));
    const char *begin = plan.data() + first + 1, *end = plan.data() + second;
    const auto number = std::from_chars(begin, end, parsed.at);
    good = (call != call_names.end() || plan.substr(0, first) == "any") && effect != effect_names.end() &&
           number.ec == std::errc() && number.ptr == end && parsed.at >= 1;
    if (call != call_names.end()) parsed.call = static_cast<FileCall>(call - call_names.begin());
    if (good) parsed.effect = static_cast<FaultEffect>(effect - effect_names.begin());
  }
  if (!good) {
    throw_error(ExitCode::bad_config,
                "TERN_FAULT: must be <call>:<n>:<effect>, got {}; calls: open, write, fsync, rename, mkdir, "
                "unlink, any; "
                "n from 1; effects: enospc, eio, short, kill",
                plan);
  }
  return parsed;
}

class FaultPoint {
 public:
  /// Counts one call and returns the fault that strikes it.
  std::optional<FaultEffect> next(FileCall call) {
    const std::lock_guard lock(mutex_);
    if (!plan_) plan_ = read_plan();
    ++calls_;
    if (plan_->at == 0 || (plan_->call && *plan_->call != call)) return std::nullopt;
    return ++matching_ == plan_->at ? std::optional(plan_->effect) : std::nullopt;
  }
  std::int64_t calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  void reset() {
    const std::lock_guard lock(mutex_);
    plan_ = read_plan();
    calls_ = matching_ = 0;
  }

 private:
  std::mutex mutex_;
  std::optional<FaultPlan> plan_;
  std::int64_t calls_ = 0, matching_ = 0;
};

FaultPoint& fault_point() {
  static FaultPoint point;
  return point;
}

std::string_view remedy(int code) {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
      return "free disk space or choose another folder";
    case EFBIG:
      return "raise the limit on the size of files (ulimit -f) or choose another file system";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check the folder's permissions or choose another";
    case ENOENT:
    case ENOTDIR:
      return "create the folder first";
    case EEXIST:
      return "remove what is there or choose another name";
    case EIO:
      return "check the disk";
    default:
      return "choose another path";
  }
}

[[noreturn]] void fail(FileCall call, const std::filesystem::path& path, int code) {
  const bool disk = code == ENOSPC || code == EDQUOT || code == EIO;
  const bool writing = call == FileCall::write || call == FileCall::fsync;
  throw_error(disk || writing ? ExitCode::io_error : ExitCode::cannot_create,
              "{}: {} must succeed, got: {}; {}", path, call_names[static_cast<std::size_t>(call)],
              std::generic_category().message(code), remedy(code));
}

/// Runs `system_call` (which returns -1 and sets errno on failure) unless a fault replaces it; repeats it on
/// EINTR.
template <class SystemCall>
auto attempt(FileCall call, const SystemCall& system_call) -> decltype(system_call()) {
  if (const auto effect = fault_point().next(call)) {
    if (*effect == FaultEffect::kill) ::kill(::getpid(), SIGKILL);
    if (*effect != FaultEffect::short_write) {
      errno = *effect == FaultEffect::enospc ? ENOSPC : EIO;
      return -1;
    }
  }
  decltype(system_call()) result = -1;
  do {
    result = system_call();
  } while (result == -1 && errno == EINTR);
  return result;
}

/// Writes everything; `offset` -1 appends to the file position.
void write_all(int descriptor, std::span<const std::byte> bytes, std::int64_t offset,
               const std::filesystem::path& path) {
  while (!bytes.empty()) {
    std::size_t size = bytes.size();
    const auto effect = fault_point().next(FileCall::write);
    if (effect == FaultEffect::kill) ::kill(::getpid(), SIGKILL);
    if (effect == FaultEffect::enospc) fail(FileCall::write, path, ENOSPC);
    if (effect == FaultEffect::eio) fail(FileCall::write, path, EIO);
    if (effect == FaultEffect::short_write) size = (size + 1) / 2;
    const ssize_t written =
        offset < 0 ? ::write(descriptor, bytes.data(), size) : ::pwrite(descriptor, bytes.data(), size, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(FileCall::write, path, written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    if (offset >= 0) offset += written;
  }
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path, Mode mode) : path_(std::move(path)) {
  const int flags = O_WRONLY | O_CLOEXEC | O_CREAT | (mode == Mode::append ? O_APPEND : O_EXCL);
  descriptor_ = attempt(FileCall::open, [&] { return ::open(path_.c_str(), flags, 0666); });
  if (descriptor_ == -1) fail(FileCall::open, path_, errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ != -1) ::close(descriptor_);
}

void OutputFile::write(std::span<const std::byte> bytes) { write_all(descriptor_, bytes, -1, path_); }

void OutputFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  require(offset >= 0, "{}: the offset of a write must not be negative, got {}", path_, offset);
  write_all(descriptor_, bytes, offset, path_);
}

void OutputFile::sync() {
  if (attempt(FileCall::fsync, [&] { return ::fsync(descriptor_); }) == -1) fail(FileCall::fsync, path_, errno);
}

void OutputFile::close() {
  if (descriptor_ == -1) return;
  // Network file systems report a failed write only here.
  if (::close(std::exchange(descriptor_, -1)) == -1 && errno != EINTR) fail(FileCall::write, path_, errno);
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (attempt(FileCall::rename, [&] { return ::rename(from.c_str(), to.c_str()); }) == -1) {
    fail(FileCall::rename, to, errno);
  }
}

bool make_single_directory(const std::filesystem::path& path) {
  if (attempt(FileCall::mkdir, [&] { return ::mkdir(path.c_str(), 0777); }) == 0) return true;
  const int code = errno;
  if (code == EEXIST && std::filesystem::is_directory(path)) return false;
  fail(FileCall::mkdir, path, code);
}

bool remove_path(const std::filesystem::path& path) {
  const auto remove = [&] {
    if (::unlink(path.c_str()) == 0) return 0;
    return errno == EISDIR || errno == EPERM ? ::rmdir(path.c_str()) : -1;
  };
  if (attempt(FileCall::unlink, remove) == 0) return true;
  if (errno == ENOENT) return false;
  fail(FileCall::unlink, path, errno);
}

void sync_directory(const std::filesystem::path& path) {
  const int descriptor = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor == -1) fail(FileCall::fsync, path, errno);
  const int result = attempt(FileCall::fsync, [&] { return ::fsync(descriptor); });
  const int code = errno;
  ::close(descriptor);
  // Some file systems have no such call for folders; their renames are as durable as they can be.
  if (result == -1 && code != EINVAL && code != ENOTSUP) fail(FileCall::fsync, path, code);
}

std::int64_t file_calls() { return fault_point().calls(); }

void reset_faults() { fault_point().reset(); }

}  // namespace tern::io
