// The only file that knows spdlog.
#include "tern/logging.h"

#include <cstdlib>
#include <memory>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace tern::logging {
namespace {

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

struct Loggers {
  /// Colors on a terminal only, and not where NO_COLOR is set (no-color.org).
  static spdlog::color_mode color_mode() {
    const char* refused = std::getenv("NO_COLOR");
    return refused != nullptr && *refused != '\0' ? spdlog::color_mode::never : spdlog::color_mode::automatic;
  }
  spdlog::logger console{"tern", std::make_shared<spdlog::sinks::stderr_color_sink_mt>(color_mode())};
  std::shared_ptr<spdlog::logger> file;
  Loggers() {
    console.set_pattern("%^%v%$");
    console.flush_on(spdlog::level::debug);
  }
};

Loggers& loggers() {
  static Loggers instance;
  return instance;
}

}  // namespace

void set_level(Level level) { loggers().console.set_level(spdlog_level(level)); }

void open_file(const std::filesystem::path& path) {
  try {
    loggers().file = std::make_shared<spdlog::logger>(
        "file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string()));
  } catch (const spdlog::spdlog_ex& failure) {
    throw_error(ExitCode::cannot_create, "log: {} must be writable, got {}", path, failure.what());
  }
  // A full disk must not end a run through its log: the checkpoint code reports it properly.
  loggers().file->set_error_handler([](const std::string&) {});
  loggers().file->set_pattern("%Y-%m-%dT%H:%M:%S%z %l %v");
  loggers().file->set_level(spdlog::level::debug);
  loggers().file->flush_on(spdlog::level::debug);
}

void close_file() { loggers().file.reset(); }

void write(Level level, std::string_view area, const std::string& text) {
  const std::string prefix = level == Level::warning ? "warning: " : level == Level::error ? "error: " : "";
  const std::string line = "[" + std::string(area) + "] " + prefix + text;
  loggers().console.log(spdlog_level(level), spdlog::string_view_t(line));
  if (loggers().file) loggers().file->log(spdlog_level(level), spdlog::string_view_t(line));
}

}  // namespace tern::logging
