#include "config/scalar.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

namespace tern::config {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool all_digits(std::string_view text) { return !text.empty() && std::ranges::all_of(text, is_digit); }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
}

/// Plain YAML text that no reader takes for anything but text.
bool is_plain(std::string_view text) {
  static constexpr std::string_view words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  if (text.empty() || !(is_letter(text[0]) || text[0] == '/' || text[0] == '_')) return false;
  if (std::ranges::find(words, lower(text)) != std::end(words)) return false;
  return std::ranges::all_of(text, [](char c) {
    return is_letter(c) || is_digit(c) || c == '_' || c == '.' || c == '/' || c == '-' || c == '+';
  });
}

std::string text_in_yaml(const std::string& text) {
  if (is_plain(text)) return text;
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += std::string("\\x") + digits[byte >> 4] + digits[byte & 15];
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

/// Why `text` is not a decimal number in this format; empty if its shape is fine.
std::string shape_mistake(std::string_view text) {
  const bool has_sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  const std::string_view body = text.substr(has_sign ? 1 : 0);
  const std::string start = lower(body.substr(0, 2));
  if (start == "0x" || start == "0o" || start == "0b") return "; write it as a decimal number";
  if (body.size() > 1 && body[0] == '0' && is_digit(body[1])) {
    const std::size_t kept = std::min(body.find_first_not_of('0'), body.size() - 1);
    return "; a leading zero would mean octal elsewhere, write " + std::string(text.substr(0, has_sign)) +
           std::string(body.substr(kept));
  }
  if (body.find('_') != std::string_view::npos && is_digit(body[0]))
    return "; write the digits without underscores";
  if (body.find(',') != std::string_view::npos && is_digit(body[0]))
    return "; write a decimal point, no commas";
  return "";
}

std::string_view without_plus(std::string_view text) {
  const bool plus_number = text.size() > 1 && text[0] == '+' && text[1] != '-' && text[1] != '+';
  return plus_number ? text.substr(1) : text;
}

template <class T>
std::optional<T> parsed(std::string_view text, std::errc& code) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  code = error;
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

struct ScalarReading {
  std::optional<Scalar> value;
  std::string mistake;
};

std::string integer_range(const Slot& slot) {
  return "must be an integer in [" + std::to_string(slot.lowest) + ", " + std::to_string(slot.highest) + "]";
}

ScalarReading read_integer(const Slot& slot, const std::string& text) {
  const bool is_natural = slot.type == ScalarType::natural;
  const std::string got = ", got " + in_quotes(text);
  const std::string range =
      is_natural ? "must be an integer in [0, 18446744073709551615]" : integer_range(slot);
  if (std::string mistake = shape_mistake(text); !mistake.empty())
    return {{}, "must be an integer" + got + mistake};
  const std::string_view digits = without_plus(text);
  const bool is_negative = digits.starts_with('-');
  if (!all_digits(digits.substr(is_negative ? 1 : 0))) {
    std::errc code{};
    const auto real = parsed<double>(digits, code);
    const bool is_whole = real && std::abs(*real) < 1e15 && std::floor(*real) == *real;
    return {{},
            "must be an integer" + got +
                (is_whole ? "; write " + std::to_string(static_cast<std::int64_t>(*real)) : "")};
  }
  std::errc code{};
  if (is_natural) {
    if (const auto value = parsed<std::uint64_t>(digits, code)) return {*value, ""};
    return {{}, range + got};
  }
  const auto value = parsed<std::int64_t>(digits, code);
  if (!value || *value < slot.lowest || *value > slot.highest) return {{}, range + got};
  return {*value, ""};
}

ScalarReading read_real(const std::string& text) {
  const std::string got = ", got " + in_quotes(text);
  if (std::string mistake = shape_mistake(text); !mistake.empty())
    return {{}, "must be a number" + got + mistake};
  const std::string_view digits = without_plus(text);
  const std::string word = lower(digits.substr(digits.starts_with('-') ? 1 : 0));
  if (word == "nan" || word == ".nan" || word == "inf" || word == ".inf" || word == "infinity") {
    return {{}, "must be a finite number" + got};
  }
  const bool is_decimal = std::ranges::all_of(
      digits, [](char c) { return is_digit(c) || c == '.' || c == 'e' || c == 'E' || c == '-' || c == '+'; });
  std::errc code{};
  const auto value = is_decimal ? parsed<double>(digits, code) : std::nullopt;
  if (code == std::errc::result_out_of_range) return {{}, "must be a number that a double can hold" + got};
  if (!value) return {{}, "must be a number" + got};
  return {*value, ""};
}

ScalarReading read_boolean(const std::string& text) {
  if (text == "true" || text == "false") return {text == "true", ""};
  const std::string word = lower(text);
  const bool means_true = word == "yes" || word == "on" || word == "y" || word == "1" || word == "true";
  const bool means_false = word == "no" || word == "off" || word == "n" || word == "0" || word == "false";
  const std::string hint = means_true ? "; write true" : means_false ? "; write false" : "";
  return {{}, "must be true or false, got " + in_quotes(text) + hint};
}

std::string words_for(const Slot& slot) {
  switch (slot.type) {
    case ScalarType::boolean:
      return "true or false";
    case ScalarType::integer:
    case ScalarType::natural:
      return "an integer";
    case ScalarType::real:
      return "a number";
    case ScalarType::text:
      return "text";
    case ScalarType::path:
      return "a path";
    case ScalarType::name:
      break;
  }
  std::string text = "one of ";
  for (const std::string_view name : slot.names)
    text += (name == slot.names.front() ? "" : ", ") + std::string(name);
  return text;
}

std::filesystem::path absolute_path(const std::string& text, const Source& source) {
  if (text.empty()) return {};
  return std::filesystem::absolute(source.folder / text).lexically_normal();
}

ScalarReading read_scalar(const Slot& slot, const Node& node) {
  if (node.type != NodeType::scalar) {
    const bool is_text = slot.type == ScalarType::text || slot.type == ScalarType::path;
    const std::string hint = is_text && node.type == NodeType::null ? "; write \"\" for empty text" : "";
    return {{}, "must be " + words_for(slot) + ", got " + description(node) + hint};
  }
  const bool is_word =
      slot.type == ScalarType::text || slot.type == ScalarType::path || slot.type == ScalarType::name;
  if (node.is_quoted && !is_word) {
    return {{}, "must be " + words_for(slot) + ", got " + description(node) + "; remove the quotation marks"};
  }
  switch (slot.type) {
    case ScalarType::boolean:
      return read_boolean(node.text);
    case ScalarType::integer:
    case ScalarType::natural:
      return read_integer(slot, node.text);
    case ScalarType::real:
      return read_real(node.text);
    case ScalarType::text:
      return {node.text, ""};
    case ScalarType::path:
      return {absolute_path(node.text, *node.place.source).string(), ""};
    case ScalarType::name:
      break;
  }
  if (std::ranges::find(slot.names, node.text) != slot.names.end()) return {node.text, ""};
  return {{}, "must be " + words_for(slot) + ", got " + in_quotes(node.text)};
}

}  // namespace

std::string number_text(double value) {
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, result.ptr);
  // to_chars writes at least two exponent digits: 1e-04.
  const std::size_t sign =
      text.find_first_of("+-", text.find('e') == std::string::npos ? text.size() : text.find('e'));
  if (sign != std::string::npos && text[sign + 1] == '0') text.erase(sign + 1, 1);
  return text;
}

std::string yaml_text(const Scalar& value) {
  return std::visit(
      [](const auto& typed) -> std::string {
        using T = std::decay_t<decltype(typed)>;
        if constexpr (std::is_same_v<T, bool>) return typed ? "true" : "false";
        if constexpr (std::is_same_v<T, double>) return number_text(typed);
        if constexpr (std::is_same_v<T, std::string>) return text_in_yaml(typed);
        if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::uint64_t>) {
          return std::to_string(typed);
        }
      },
      value);
}

std::string yaml_text(const Slot& slot, const std::vector<Scalar>& values) {
  if (slot.shape != SlotShape::list) return values.empty() ? "null" : yaml_text(values.front());
  std::string text = "[";
  for (const Scalar& value : values) text += (text.size() > 1 ? ", " : "") + yaml_text(value);
  return text + "]";
}

std::string type_text(const Slot& slot) {
  static constexpr std::string_view words[] = {
      "true or false", "integer", "integer, at least 0", "number", "text", "path", ""};
  const std::string type =
      slot.type == ScalarType::name ? words_for(slot) : std::string(words[static_cast<std::size_t>(slot.type)]);
  if (slot.shape == SlotShape::optional) return type + ", or null";
  return slot.shape == SlotShape::list ? "list of: " + type : type;
}

Reading read_slot(const Slot& slot, const Node& node) {
  if (slot.shape == SlotShape::optional && node.type == NodeType::null) return {std::vector<Scalar>{}, "", {}};
  if (slot.shape != SlotShape::list) {
    ScalarReading reading = read_scalar(slot, node);
    if (!reading.value) return {std::nullopt, std::move(reading.mistake), node.place};
    return {std::vector<Scalar>{*std::move(reading.value)}, "", {}};
  }
  if (node.type != NodeType::list) {
    return {std::nullopt, "must be a list in [brackets], got " + description(node), node.place};
  }
  std::vector<Scalar> values;
  for (const auto& item : node.items) {
    ScalarReading reading = read_scalar(slot, *item);
    if (!reading.value) return {std::nullopt, "each item " + std::move(reading.mistake), item->place};
    values.push_back(*std::move(reading.value));
  }
  return {std::move(values), "", {}};
}

}  // namespace tern::config
