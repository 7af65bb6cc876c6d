// Everything that is written from a field list: the resolved YAML, differences, keys and the reference.
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "config/document.h"
#include "config/hints.h"
#include "config/scalar.h"
#include "tern/config.h"

namespace tern::config {
namespace {

Fields listed(const Section& section) {
  Fields fields;
  section(fields);
  return fields;
}

Section section_of(Choice& choice) {
  return [&choice](Fields& f) { choice.fields(f); };
}

class Dumper {
 public:
  explicit Dumper(const Origins* origins) : origins_(origins) {}

  void write(const Section& section, const std::string& prefix, const std::string& indent) {
    Fields fields = listed(section);
    for (Field& field : fields.list()) write_field(field, dotted(prefix, field.key), indent);
  }
  std::string text;

 private:
  void write_field(Field& field, const std::string& path, const std::string& indent) {
    if (const auto* slot = std::get_if<Slot>(&field.target)) {
      write_value(field.key, yaml_text(*slot, slot->get()), path, indent);
    } else if (const auto* section = std::get_if<Section>(&field.target)) {
      const bool is_empty = listed(*section).list().empty();
      text += indent + field.key + (is_empty ? ": {}\n" : ":\n");
      write(*section, path, indent + "  ");
    } else {
      Choice& choice = *std::get<Choice*>(field.target);
      if (choice.kind().empty()) return;
      text += indent + field.key + ":\n";
      write_value("kind", yaml_text(Scalar(choice.kind())), path + ".kind", indent + "  ");
      write(section_of(choice), path, indent + "  ");
    }
  }

  void write_value(const std::string& key, const std::string& value, const std::string& path,
                   const std::string& indent) {
    text += indent + key + ": " + value;
    if (origins_ != nullptr) text += "  # " + origin(path);
    text += "\n";
  }

  std::string origin(const std::string& path) const {
    const auto found = origins_->find(path);
    if (found == origins_->end()) return "default";
    std::string one_line = found->second;
    std::ranges::replace_if(
        one_line, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
    return one_line;
  }

  const Origins* origins_;
};

struct Line {
  std::string key, value;
  bool changeable;
};

void flatten(const Section& section, const std::string& prefix, bool changeable, std::vector<Line>& lines) {
  Fields fields = listed(section);
  for (Field& field : fields.list()) {
    const std::string path = dotted(prefix, field.key);
    const bool is_changeable = changeable || field.is_changeable;
    if (const auto* slot = std::get_if<Slot>(&field.target)) {
      lines.push_back({path, yaml_text(*slot, slot->get()), is_changeable});
    } else if (const auto* inner = std::get_if<Section>(&field.target)) {
      flatten(*inner, path, is_changeable, lines);
    } else {
      Choice& choice = *std::get<Choice*>(field.target);
      if (!choice.kind().empty())
        lines.push_back({path + ".kind", yaml_text(Scalar(choice.kind())), is_changeable});
      flatten(section_of(choice), path, is_changeable, lines);
    }
  }
}

void collect_keys(const Section& section, const std::string& prefix, std::vector<std::string>& keys) {
  Fields fields = listed(section);
  const auto add = [&keys](std::string key) {
    if (std::ranges::find(keys, key) == keys.end()) keys.push_back(std::move(key));
  };
  for (Field& field : fields.list()) {
    const std::string path = dotted(prefix, field.key);
    if (const auto* inner = std::get_if<Section>(&field.target)) {
      collect_keys(*inner, path, keys);
    } else if (auto* const* choice = std::get_if<Choice*>(&field.target)) {
      add(path + ".kind");
      for (const ChoiceKind& kind : (*choice)->kinds()) {
        const auto record = kind.make();
        collect_keys([&record](Fields& f) { record->fields(f); }, path, keys);
      }
    } else {
      add(path);
    }
  }
}

class Reference {
 public:
  void write(const Section& section, const std::string& prefix, const std::string& heading,
             const std::string& summary) {
    Fields fields = listed(section);
    text += heading + "\n\n";
    if (!summary.empty()) text += summary + "\n\n";
    write_table(fields.list(), prefix);
    for (Field& field : fields.list()) write_inner(field, dotted(prefix, field.key));
  }
  std::string text;

 private:
  void write_table(std::deque<Field>& fields, const std::string& prefix) {
    std::string rows;
    for (Field& field : fields) {
      if (const auto* slot = std::get_if<Slot>(&field.target))
        rows += slot_row(field, *slot, dotted(prefix, field.key));
    }
    if (rows.empty()) return;
    text += "| key | type | default | range | meaning |\n|---|---|---|---|---|\n" + rows + "\n";
  }

  static std::string slot_row(const Field& field, const Slot& slot, const std::string& path) {
    const std::vector<Scalar> values = slot.get();
    const bool is_empty_list = slot.shape == SlotShape::list && values.empty();
    const bool is_valid =
        !field.constraint.holds || (is_empty_list ? !field.constraint.refuses_empty_list
                                                  : std::ranges::all_of(values, field.constraint.holds));
    const std::string standard = is_valid ? "`" + yaml_text(slot, values) + "`" : "must be set";
    const std::string meaning = field.meaning + (field.is_changeable ? "; may differ on resume" : "");
    return "| `" + path + "` | " + cell(type_text(slot)) + " | " + cell(standard) + " | " +
           cell(field.constraint.text) + " | " + cell(meaning) + " |\n";
  }

  static std::string cell(const std::string& content) {
    std::string out;
    for (const char c : content) out += c == '|' ? "\\|" : c == '\n' ? " " : std::string(1, c);
    return out;
  }

  void write_inner(Field& field, const std::string& path) {
    if (const auto* section = std::get_if<Section>(&field.target)) {
      write(*section, path, "## `" + path + "`", field.meaning);
    } else if (auto* const* choice = std::get_if<Choice*>(&field.target)) {
      write_choice(**choice, field.meaning, path);
    }
  }

  void write_choice(const Choice& choice, const std::string& meaning, const std::string& path) {
    const std::string standard = choice.kind().empty() ? "must be set" : "`" + choice.kind() + "`";
    text +=
        "## `" + path + "`\n\n" + meaning + ". `" + path + ".kind` selects (default: " + standard + "):\n\n";
    for (const ChoiceKind& kind : choice.kinds()) text += "- `" + kind.name + "`: " + kind.summary + "\n";
    text += "\n";
    for (const ChoiceKind& kind : choice.kinds()) {
      const auto record = kind.make();
      const Section section = [&record](Fields& f) { record->fields(f); };
      if (listed(section).list().empty()) continue;
      write(section, path, "### `" + path + "`, kind `" + kind.name + "`", "");
    }
  }
};

}  // namespace

namespace detail {

std::string dump(const Section& root, const Origins* origins) {
  Dumper dumper(origins);
  dumper.write(root, "", "");
  return std::move(dumper.text);
}

std::vector<Difference> diff(const Section& before, const Section& after) {
  std::vector<Line> first, second;
  flatten(before, "", false, first);
  flatten(after, "", false, second);
  std::unordered_map<std::string, const Line*> first_by_key, second_by_key;
  for (const Line& line : first) first_by_key[line.key] = &line;
  for (const Line& line : second) second_by_key[line.key] = &line;
  std::vector<Difference> differences;
  for (const Line& line : first) {
    const auto found = second_by_key.find(line.key);
    if (found == second_by_key.end()) {
      differences.push_back({line.key, line.value, std::nullopt, line.changeable});
    } else if (found->second->value != line.value) {
      differences.push_back({line.key, line.value, found->second->value, line.changeable});
    }
  }
  for (const Line& line : second) {
    if (!first_by_key.contains(line.key)) {
      differences.push_back({line.key, std::nullopt, line.value, line.changeable});
    }
  }
  return differences;
}

Values values(const Section& root) {
  std::vector<Line> lines;
  flatten(root, "", false, lines);
  Values out;
  for (Line& line : lines) out.emplace_back(std::move(line.key), std::move(line.value));
  return out;
}

std::string reference_markdown(const Section& root, std::string_view title) {
  Reference reference;
  reference.write(root, "", "# " + std::string(title), "");
  return std::move(reference.text);
}

std::vector<std::string> keys(const Section& root) {
  std::vector<std::string> keys;
  collect_keys(root, "", keys);
  return keys;
}

}  // namespace detail
}  // namespace tern::config
