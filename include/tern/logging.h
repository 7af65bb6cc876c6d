// Messages for people: to stderr, and to the run folder's log.txt once it is open. Results go to stdout, not
// here.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tern/error.h"

namespace tern::logging {

enum class Level { debug, info, warning, error };

/// Lowest level that reaches stderr; the file gets everything.
void set_level(Level level);
/// Also writes to `path`, appending. Throws Error(cannot_create) when it cannot be opened.
void open_file(const std::filesystem::path& path);
void close_file();
/// Writes one line "[area] text".
void write(Level level, std::string_view area, const std::string& text);

template <class... Args>
void info(std::string_view area, Message<std::type_identity_t<Args>...> message, const Args&... args) {
  write(Level::info, area, format_text<Args...>(message, args...));
}
template <class... Args>
void warning(std::string_view area, Message<std::type_identity_t<Args>...> message, const Args&... args) {
  write(Level::warning, area, format_text<Args...>(message, args...));
}

}  // namespace tern::logging
