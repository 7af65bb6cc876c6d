// Errors: where, what must hold, what was given, how to fix it.
//
//   require(rows == columns, "inverse: the matrix must be square, got [{}, {}]", rows, columns);
//   throw_error(ExitCode::bad_data, "{}: record {} is truncated; prepare the data again", path, index);
//   with_context([&] { return format_text("step {}", step); }, [&] { ... });   // adds a line while unwinding
//
// Plain standard C++: device code may include it.
#pragma once

#include <array>
#include <exception>
#include <filesystem>
#include <source_location>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace tern {

/// Process exit codes; documented in docs/exit-codes.md.
enum class ExitCode : int {
  done = 0,
  failed = 1,
  usage = 2,
  bad_data = 65,
  missing_input = 66,
  internal = 70,
  cannot_create = 73,
  io_error = 74,
  interrupted = 75,
  peer = 76,
  diverged = 77,
  bad_config = 78,
};

/// The only exception type thrown by tern, itself or as OutOfMemory, besides std::bad_alloc, and
/// std::filesystem::filesystem_error for paths that the system cannot follow. what() holds the message and one
/// "  in ..." line per context.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code), text_(message) {}
  const char* what() const noexcept override { return text_.c_str(); }
  ExitCode code() const noexcept { return code_; }
  void add_context(std::string_view where) { text_.append("\n  in ").append(where); }

 private:
  ExitCode code_;
  std::string text_;
};

/// A device has no more memory: the caller may try with less.
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(const std::string& message) : Error(ExitCode::failed, message) {}
};

template <class T>
std::string to_text(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
    return value.string();
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return std::string(std::string_view(value));
  } else if constexpr (std::is_enum_v<T> && !requires(std::ostream & out) { out << value; }) {
    return std::to_string(static_cast<long long>(value));
  } else if constexpr (requires(std::ostream & out) { out << value; }) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else {
    std::string text = "[";
    for (const auto& item : value) text += (text.size() > 1 ? ", " : "") + to_text(item);
    return text + "]";
  }
}

namespace detail {
constexpr std::size_t count_placeholders(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t i = 0; i + 1 < text.size(); ++i) count += text[i] == '{' && text[i + 1] == '}';
  return count;
}
inline std::string format_texts(std::string_view text, std::span<const std::string> values) {
  std::string out;
  for (std::size_t i = 0, next = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && text[i] == '{' && text[i + 1] == '}' && next < values.size()) {
      out += values[next++];
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}
}  // namespace detail

/// A message text whose number of {} is checked against its arguments at compile time.
template <class... Args>
struct Message {
  std::string_view text;
  std::source_location site;
  template <class Text>
  requires std::convertible_to<const Text&, std::string_view>
  consteval Message(const Text& message, std::source_location at = std::source_location::current())
      : text(message), site(at) {
    if (detail::count_placeholders(text) != sizeof...(Args))
      throw "the number of {} must equal the number of arguments";
  }
};

/// Replaces each {} in turn by the text of the next argument.
template <class... Args>
std::string format_text(Message<std::type_identity_t<Args>...> message, const Args&... args) {
  const std::array<std::string, sizeof...(Args)> values{to_text(args)...};
  return detail::format_texts(message.text, values);
}

template <class... Args>
[[noreturn]] void throw_error(ExitCode code, Message<std::type_identity_t<Args>...> message,
                              const Args&... args) {
  const std::array<std::string, sizeof...(Args)> values{to_text(args)...};
  throw Error(code, detail::format_texts(message.text, values));
}

/// The caller's mistake: throws Error(failed) with the message when `holds` is false.
template <class... Args>
void require(bool holds, Message<std::type_identity_t<Args>...> message, const Args&... args) {
  if (holds) [[likely]]
    return;
  const std::array<std::string, sizeof...(Args)> values{to_text(args)...};
  throw Error(ExitCode::failed, detail::format_texts(message.text, values));
}

/// Our bug: throws Error(internal) with the source position when `holds` is false.
template <class... Args>
void ensure(bool holds, Message<std::type_identity_t<Args>...> message, const Args&... args) {
  if (holds) [[likely]]
    return;
  const std::array<std::string, sizeof...(Args)> values{to_text(args)...};
  throw Error(ExitCode::internal, "internal error at " + std::string(message.site.file_name()) + ":" +
                                      std::to_string(message.site.line()) + ": " +
                                      detail::format_texts(message.text, values) + "; please report this");
}

/// Runs `body`; an Error that leaves it gets the line that `where()` returns.
template <class Where, class Body>
decltype(auto) with_context(Where&& where, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (Error& error) {
    error.add_context(where());
    throw;
  }
}

}  // namespace tern
