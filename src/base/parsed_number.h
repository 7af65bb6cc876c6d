// Numbers in texts.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace tern {

/// The number that the whole text writes in decimal digits, or nothing: no blanks, no plus sign, in range.
template <class Number>
std::optional<Number> parsed_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return number;
}

}  // namespace tern
