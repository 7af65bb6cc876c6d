#include "config/hints.h"

#include <algorithm>

#include "config/suggest.h"

namespace tern::config {
namespace {

/// New dotted key of the field that once had the dotted key `old_path` (or lay in a section of that name); else
/// empty.
std::string renamed_to(std::deque<Field>& fields, const std::string& prefix, const std::string& old_path) {
  for (Field& field : fields) {
    const std::string path = dotted(prefix, field.key);
    for (const std::string& old_key : field.old_keys) {
      const bool is_dotted = old_key.find('.') != std::string::npos;
      const std::string old = is_dotted ? old_key : dotted(prefix, old_key);
      if (old == old_path || old.starts_with(old_path + ".")) return path;
    }
    Fields inner;
    if (const auto* section = std::get_if<Section>(&field.target)) (*section)(inner);
    if (auto* const* choice = std::get_if<Choice*>(&field.target)) (*choice)->fields(inner);
    if (std::string found = renamed_to(inner.list(), path, old_path); !found.empty()) return found;
  }
  return "";
}

/// Dotted keys of `root` that end in `.key` or begin with it.
std::vector<std::string> same_key_elsewhere(std::string_view key, const std::vector<std::string>& all) {
  const std::string ending = "." + std::string(key);
  std::vector<std::string> found;
  for (const std::string& path : all) {
    const bool matches = path == key || path.ends_with(ending);
    if (matches && found.size() < 3 && std::ranges::find(found, path) == found.end()) found.push_back(path);
  }
  return found;
}

std::string other_kinds_with(const SectionView& section, std::string_view key) {
  std::vector<std::string> names;
  for (const ChoiceKind& kind : section.choice->kinds()) {
    Fields fields;
    const auto record = kind.make();
    record->fields(fields);
    const bool has_key =
        std::ranges::any_of(fields.list(), [&](const Field& field) { return field.key == key; });
    if (has_key) names.push_back(kind.name);
  }
  return alternatives(names);
}

std::string accepted_text(const SectionView& section) {
  const std::string subject = section.choice != nullptr ? "kind " + std::string(section.kind)
                              : section.prefix.empty()  ? "the file"
                                                        : section.prefix;
  if (section.accepted.empty()) return subject + " has no keys of its own";
  return subject + " accepts " + joined(section.accepted);
}

/// `path` for a message, in quotation marks where it is no plain word.
std::string key_text(std::string_view path) {
  const bool is_word = std::ranges::all_of(path, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
           c == '.';
  });
  return is_word && !path.empty() && path.size() <= 60 ? std::string(path) : in_quotes(path);
}

}  // namespace

std::string dotted(std::string_view prefix, std::string_view key) {
  return prefix.empty() ? std::string(key) : std::string(prefix) + "." + std::string(key);
}

std::string unknown_key_message(const SectionView& section, std::string_view key, const Section& root) {
  const std::string path = dotted(section.prefix, key_text(key));
  const std::string start = path + " is not a known key";
  if (key == "<<") return start + "; merge keys are not supported, name a file in base: instead";

  Fields all;
  root(all);
  std::string now = renamed_to(*section.fields, section.prefix, path);
  if (now.empty()) now = renamed_to(all.list(), "", path);
  if (!now.empty()) return start + "; it is now " + now;
  const std::string accepted = accepted_text(section);
  std::vector<std::string> candidates = section.accepted;
  if (section.choice != nullptr) candidates.push_back("kind");
  const std::string kind_note = section.choice != nullptr ? " (" + accepted + ")" : "";
  const auto did_you_mean = [&](const std::vector<std::string>& paths) {
    return start + "; did you mean " + alternatives(paths) + "?" + kind_note;
  };
  const auto nearest_here = [&](int limit) {
    std::vector<std::string> near = nearest(key, candidates, limit);
    for (std::string& word : near) word = dotted(section.prefix, word);
    return near;
  };
  if (const auto near = nearest_here(1); !near.empty()) return did_you_mean(near);
  if (section.choice != nullptr) {
    const std::string others = other_kinds_with(section, key);
    if (!others.empty())
      return start + " of kind " + std::string(section.kind) + "; kind " + others + " has it" + kind_note;
  }
  const std::vector<std::string> known = detail::keys(root);
  if (std::ranges::find(known, dotted(section.prefix, key)) != known.end()) {
    return start + "; dotted keys are for --set, in a file write one section per line";
  }
  if (const auto elsewhere = same_key_elsewhere(key, known); !elsewhere.empty()) return did_you_mean(elsewhere);
  if (const auto near = nearest_here(slip_limit(key)); !near.empty()) return did_you_mean(near);
  return start + "; " + accepted;
}

std::string unknown_path_message(std::string_view path, const SectionView& section, const Section& root) {
  const std::string start = key_text(path) + " is not a known key";
  Fields all;
  root(all);
  if (const std::string now = renamed_to(all.list(), "", std::string(path)); !now.empty())
    return start + "; it is now " + now;
  const std::vector<std::string> known = detail::keys(root);
  constexpr int sure_slip = 2;
  const std::string_view rest = path.substr(section.prefix.size());  // what may hold the slip
  std::vector<std::string> near = nearest(path, known, sure_slip);
  if (near.empty()) near = same_key_elsewhere(path.substr(path.rfind('.') + 1), known);
  if (near.empty()) near = nearest(path, known, slip_limit(rest));
  return start + (near.empty() ? "; " + accepted_text(section) : "; did you mean " + alternatives(near) + "?");
}

}  // namespace tern::config
