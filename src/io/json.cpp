#include "io/json.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>
#include <vector>

#include "tern/error.h"

namespace tern::io {
namespace {

/// Reads a text and lets its owner know how far the parser came.
class CountedIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountedIterator(const char* at, std::size_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountedIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  CountedIterator operator++(int) {
    CountedIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountedIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountedIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  std::size_t* count_;
};

/// Builds the value and refuses what the library would let pass: deep nesting and repeated keys.
class StrictBuilder final : public nlohmann::json_sax<Json> {
 public:
  StrictBuilder(std::string_view where, const std::size_t& byte) : where_(where), byte_(byte) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value).second) {
      throw_error(ExitCode::bad_data, "{}: keys must not repeat, got {} again before byte {}; remove one",
                  where_, dump_json(value), byte_);
    }
    open_.back().key = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string_view reason = error.what();
    if (const std::size_t bracket = reason.find("] "); bracket != reason.npos)
      reason.remove_prefix(bracket + 2);
    throw_error(ExitCode::bad_data, "{}: must be valid JSON, got a fault at byte {}: {}; correct or restore it",
                where_, position, reason);
  }

  Json take() { return std::move(root_); }

 private:
  struct Level {
    Json value;
    std::string key;  // of the member that is read now
    std::unordered_set<std::string> keys;
  };

  bool open(Json value) {
    if (open_.size() >= static_cast<std::size_t>(json_depth_cap)) {
      throw_error(ExitCode::bad_data, "{}: must be nested at most {} levels deep, got more at byte {}", where_,
                  json_depth_cap, byte_);
    }
    open_.push_back({std::move(value), {}, {}});
    return true;
  }

  bool close() {
    Json value = std::move(open_.back().value);
    open_.pop_back();
    return add(std::move(value));
  }

  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Level& level = open_.back(); level.value.is_array()) {
      level.value.get_ref<Json::array_t&>().push_back(std::move(value));
    } else {
      // The keys are known to differ: the vector's own insertion, because the map's would search it each time.
      auto& members = level.value.get_ref<Json::object_t&>();
      static_cast<Json::object_t::Container&>(members).emplace_back(std::move(level.key), std::move(value));
    }
    return true;
  }

  std::string_view where_;
  const std::size_t& byte_;
  Json root_;
  std::vector<Level> open_;
};

template <class Holds>
const Json& typed_member(const Json& object, std::string_view key, std::string_view where,
                         std::string_view type, const Holds& holds) {
  const Json& member = json_member(object, key, where);
  if (!holds(member)) {
    throw_error(ExitCode::bad_data, "{}: {} must be {}, got {}", where, key, type,
                dump_json(member).substr(0, 80));
  }
  return member;
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where, std::size_t size_cap) {
  if (text.size() > size_cap) {
    throw_error(ExitCode::bad_data, "{}: JSON must be at most {} bytes, got {}", where, size_cap, text.size());
  }
  std::size_t byte = 0, unused = 0;
  StrictBuilder builder(where, byte);
  const char* end = text.data() + text.size();
  Json::sax_parse(CountedIterator(text.data(), &byte), CountedIterator(end, &unused), &builder);
  return builder.take();
}

std::string dump_json(const Json& value, int indent) {
  try {
    return value.dump(indent);
  } catch (const Json::exception&) {
    throw_error(ExitCode::bad_data,
                "JSON: strings must be valid UTF-8, got other bytes; check the names in use");
  }
}

std::string utf8_text(std::string_view text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

const Json& json_member(const Json& object, std::string_view key, std::string_view where) {
  if (!object.is_object()) throw_error(ExitCode::bad_data, "{}: must be a JSON object", where);
  const auto member = object.find(key);
  if (member == object.end()) throw_error(ExitCode::bad_data, "{}: key {} is missing", where, key);
  return *member;
}

std::int64_t json_integer(const Json& object, std::string_view key, std::string_view where) {
  return typed_member(
             object, key, where, "an integer of 64 bits",
             [](const Json& value) {
               return value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::uint64_t{INT64_MAX});
             })
      .get<std::int64_t>();
}

std::uint64_t json_unsigned(const Json& object, std::string_view key, std::string_view where) {
  return typed_member(object, key, where, "an integer from 0 on",
                      [](const Json& value) {
                        return value.is_number_unsigned() ||
                               (value.is_number_integer() && value.get<std::int64_t>() >= 0);
                      })
      .get<std::uint64_t>();
}

double json_number(const Json& object, std::string_view key, std::string_view where) {
  return typed_member(object, key, where, "a number", [](const Json& value) { return value.is_number(); })
      .get<double>();
}

bool json_boolean(const Json& object, std::string_view key, std::string_view where) {
  return typed_member(object, key, where, "true or false", [](const Json& value) { return value.is_boolean(); })
      .get<bool>();
}

std::string json_string(const Json& object, std::string_view key, std::string_view where) {
  return typed_member(object, key, where, "a string", [](const Json& value) { return value.is_string(); })
      .get<std::string>();
}

std::vector<std::string> json_strings(const Json& object, std::string_view key, std::string_view where) {
  const auto are_strings = [](const Json& value) {
    return value.is_array() &&
           std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); });
  };
  return typed_member(object, key, where, "a list of strings", are_strings).get<std::vector<std::string>>();
}

}  // namespace tern::io
