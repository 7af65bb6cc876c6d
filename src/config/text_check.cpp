#include "config/text_check.h"

#include <cstdint>

namespace tern::config {
namespace {

constexpr std::size_t max_bytes = std::size_t{1} << 20;

/// Bytes of the UTF-8 character at `at`, 0 if it is malformed, too long a form, a surrogate or beyond U+10FFFF.
std::size_t character_bytes(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(at);
  if (first < 0x80) return 1;
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  std::uint32_t code = first & (0x7Fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xC0u) != 0x80u) return 0;
    code = code << 6 | (byte(at + i) & 0x3Fu);
  }
  const std::uint32_t least = bytes == 4 ? 0x10000 : bytes == 3 ? 0x800 : 0x80;
  const bool is_surrogate = code >= 0xD800 && code < 0xE000;
  return code < least || code > 0x10FFFF || is_surrogate ? 0 : bytes;
}

/// Why the character at `at` is refused; empty if it is fine.
std::string_view refusal(std::string_view text, std::size_t at, bool in_indentation) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte == '\t') return in_indentation ? "a tab in the indentation; indent with spaces" : "";
  if (byte == '\r') return "a carriage return without a line feed; use plain line ends";
  if ((byte < 0x20 && byte != '\n') || byte == 0x7F) return "a control character: is this a text file?";
  return character_bytes(text, at) == 0 ? "bytes that are not UTF-8: is this a text file?" : "";
}

}  // namespace

std::optional<std::string> checked_text(std::string_view text, const SourceRef& source, Problems& problems) {
  if (text.size() > max_bytes) {
    problems.add({source, 0, 0}, "larger than 1 MiB: is this a configuration?");
    return std::nullopt;
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::string clean;
  clean.reserve(text.size());
  int line = 1, column = 1;
  bool in_indentation = true;
  for (std::size_t i = 0; i < text.size();) {
    if (text.substr(i, 2) == "\r\n") ++i;
    if (const std::string_view reason = refusal(text, i, in_indentation); !reason.empty()) {
      problems.add({source, line, column}, std::string(reason));
      return std::nullopt;
    }
    const std::size_t bytes = character_bytes(text, i);
    clean.append(text.substr(i, bytes));
    in_indentation = text[i] == '\n' || (in_indentation && text[i] == ' ');
    column = text[i] == '\n' ? 1 : column + 1;
    line += text[i] == '\n';
    i += bytes;
  }
  // yaml-cpp 0.7 accepts an unclosed quotation that ends in a line feed; behind a last comment it notices.
  if (!clean.ends_with('\n')) clean += '\n';
  return clean += '#';
}

}  // namespace tern::config
