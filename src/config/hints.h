// The words for a key that is not in the record.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/document.h"
#include "tern/config.h"

namespace tern::config {

/// A section as a message sees it.
struct SectionView {
  std::string prefix;                 ///< dotted path of the section, empty for the root
  std::vector<std::string> accepted;  ///< its keys
  std::deque<Field>* fields;          ///< its fields, for renamed keys
  const Choice* choice = nullptr;     ///< the Choice whose record it is, if any
  std::string_view kind;              ///< and the kind then in force
};

/// `prefix.key`, or `key` at the root.
std::string dotted(std::string_view prefix, std::string_view key);

/// "model.attention.landmark is not a known key; did you mean model.attention.landmarks? (kind nystrom accepts
/// …)". Looks, in this order, for a former name, a slip of the keyboard in this section, another kind's key,
/// the same key elsewhere in `root`, a larger slip.
std::string unknown_key_message(const SectionView& section, std::string_view key, const Section& root);

/// The same for the dotted `path` of an override that leaves the known keys before its last part: in `section`
/// there is no section of its next part's name.
std::string unknown_path_message(std::string_view path, const SectionView& section, const Section& root);

}  // namespace tern::config
