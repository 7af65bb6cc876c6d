// JSON, strictly: the only place that knows the JSON library. Objects keep the order of their keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace tern::io {

using Json = nlohmann::ordered_json;

inline constexpr std::size_t json_size_cap = std::size_t{16} << 20;
inline constexpr int json_depth_cap = 64;

/// Parses one JSON text of at most `size_cap` bytes and json_depth_cap levels. Malformed text, invalid UTF-8,
/// duplicate keys and anything after the value: Error(bad_data) naming `where` and the byte.
Json parse_json(std::string_view text, std::string_view where, std::size_t size_cap = json_size_cap);

/// Text of `value`: one line, or with `indent` spaces a level. Strings must be UTF-8: Error(bad_data)
/// otherwise.
std::string dump_json(const Json& value, int indent = -1);

/// The text with bytes that are not UTF-8 replaced by U+FFFD, for names that come from outside.
std::string utf8_text(std::string_view text);

/// Member `key` of an object. Error(bad_data) naming `where` if `object` is none or lacks it, or has another
/// type.
const Json& json_member(const Json& object, std::string_view key, std::string_view where);
std::int64_t json_integer(const Json& object, std::string_view key, std::string_view where);
std::uint64_t json_unsigned(const Json& object, std::string_view key, std::string_view where);
double json_number(const Json& object, std::string_view key, std::string_view where);
bool json_boolean(const Json& object, std::string_view key, std::string_view where);
std::string json_string(const Json& object, std::string_view key, std::string_view where);
std::vector<std::string> json_strings(const Json& object, std::string_view key, std::string_view where);

}  // namespace tern::io
