// Between YAML text and typed values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/document.h"
#include "tern/config.h"

namespace tern::config {

/// The YAML form of a value: numbers in their shortest exact form, text quoted where needed.
std::string yaml_text(const Scalar& value);
/// The YAML form of all values of a slot: one value, null, or [a, b].
std::string yaml_text(const Slot& slot, const std::vector<Scalar>& values);
/// Shortest decimal text that reads back to the same double.
std::string number_text(double value);

/// Type for the reference: "integer", "list of text", "one of a, b".
std::string type_text(const Slot& slot);

/// A slot's values, or why they cannot be read.
struct Reading {
  std::optional<std::vector<Scalar>> values;
  std::string mistake;  ///< "must be an integer, got …"
  Place place;          ///< of the mistake
};
/// Reads `node` as the slot's type, strictly: no yes/no, no octal or hexadecimal, no quoted numbers, finite, in
/// range.
Reading read_slot(const Slot& slot, const Node& node);

}  // namespace tern::config
