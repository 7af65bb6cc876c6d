// The variable types that a configuration record may list, and how they lose their static type: included by
// config.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "tern/error.h"

namespace tern {

/// One name of an enum; enum_names(T) returns a std::array of them and is found beside the enum.
template <class T>
struct EnumName {
  T value;
  std::string_view name;
};

/// The name of an enum's value.
template <class T>
std::string_view name_of(T value) {
  for (const auto& known : enum_names(value))
    if (known.value == value) return known.name;
  throw_error(ExitCode::internal, "enum_names lacks the value {}", static_cast<int>(value));
}
/// The value that has a name.
template <class T>
T value_of(std::string_view name) {
  for (const auto& known : enum_names(T{}))
    if (known.name == name) return known.value;
  throw_error(ExitCode::internal, "enum_names lacks the name {}", name);
}

/// One value without its static type: integers as the 64-bit type of their sign, enums by name, paths as text.
using Scalar = std::variant<bool, std::int64_t, std::uint64_t, double, std::string>;

enum class ScalarType { boolean, integer, natural, real, text, path, name };
enum class SlotShape { one, optional, list };

/// A listed variable without its static type: a list of scalars (exactly one, at most one, or any number).
struct Slot {
  ScalarType type = ScalarType::text;
  SlotShape shape = SlotShape::one;
  std::int64_t lowest = 0, highest = 0;  ///< limits of the C++ type, for ScalarType::integer
  std::vector<std::string_view> names;   ///< allowed names, for ScalarType::name
  std::function<std::vector<Scalar>()> get;
  std::function<void(const std::vector<Scalar>&)> set;
};

namespace detail {

template <class T>
concept NamedEnum = std::is_enum_v<T> && requires(T value) {
  enum_names(value);
};

template <class T>
concept ScalarVariable = std::is_same_v<T, bool> || std::is_same_v<T, int> || std::is_same_v<T, std::int64_t> ||
    std::is_same_v<T, std::uint64_t> || std::is_same_v<T, double> || std::is_same_v<T, std::string> ||
    std::is_same_v<T, std::filesystem::path> || NamedEnum<T>;

template <ScalarVariable T>
Scalar to_scalar(const T& value) {
  if constexpr (std::is_same_v<T, int>) {
    return std::int64_t{value};
  } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
    return value.string();
  } else if constexpr (std::is_enum_v<T>) {
    return std::string(name_of(value));
  } else {
    return value;
  }
}

template <ScalarVariable T>
T from_scalar(const Scalar& scalar) {
  if constexpr (std::is_same_v<T, int>) {
    return static_cast<int>(std::get<std::int64_t>(scalar));
  } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
    return std::filesystem::path(std::get<std::string>(scalar));
  } else if constexpr (std::is_enum_v<T>) {
    return value_of<T>(std::get<std::string>(scalar));
  } else {
    return std::get<T>(scalar);
  }
}

template <ScalarVariable T>
Slot slot_type() {
  Slot slot;
  if constexpr (std::is_same_v<T, bool>) slot.type = ScalarType::boolean;
  if constexpr (std::is_same_v<T, int> || std::is_same_v<T, std::int64_t>) {
    slot.type = ScalarType::integer;
    slot.lowest = std::numeric_limits<T>::min();
    slot.highest = std::numeric_limits<T>::max();
  }
  if constexpr (std::is_same_v<T, std::uint64_t>) slot.type = ScalarType::natural;
  if constexpr (std::is_same_v<T, double>) slot.type = ScalarType::real;
  if constexpr (std::is_same_v<T, std::filesystem::path>) slot.type = ScalarType::path;
  if constexpr (std::is_enum_v<T>) {
    slot.type = ScalarType::name;
    for (const auto& entry : enum_names(T{})) slot.names.push_back(entry.name);
  }
  return slot;
}

template <class T>
struct SlotOf {
  static constexpr bool supported = ScalarVariable<T>;
  static Slot make(T& variable) {
    Slot slot = slot_type<T>();
    slot.get = [&variable] { return std::vector<Scalar>{to_scalar(variable)}; };
    slot.set = [&variable](const std::vector<Scalar>& values) { variable = from_scalar<T>(values.front()); };
    return slot;
  }
};

template <class T>
struct SlotOf<std::optional<T>> {
  static constexpr bool supported = ScalarVariable<T>;
  static Slot make(std::optional<T>& variable) {
    Slot slot = slot_type<T>();
    slot.shape = SlotShape::optional;
    slot.get = [&variable] {
      return variable ? std::vector<Scalar>{to_scalar(*variable)} : std::vector<Scalar>{};
    };
    slot.set = [&variable](const std::vector<Scalar>& values) {
      variable = values.empty() ? std::nullopt : std::optional<T>(from_scalar<T>(values.front()));
    };
    return slot;
  }
};

template <class T>
struct SlotOf<std::vector<T>> {
  static constexpr bool supported = ScalarVariable<T>;
  static Slot make(std::vector<T>& variable) {
    Slot slot = slot_type<T>();
    slot.shape = SlotShape::list;
    slot.get = [&variable] {
      std::vector<Scalar> values;
      for (auto&& item : variable) values.push_back(to_scalar<T>(item));
      return values;
    };
    slot.set = [&variable](const std::vector<Scalar>& values) {
      variable.clear();
      for (const Scalar& value : values) variable.push_back(from_scalar<T>(value));
    };
    return slot;
  }
};

}  // namespace detail

}  // namespace tern
