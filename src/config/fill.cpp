// Sources are not merged first: a section is filled from the same section of every source, so that each value
// keeps its place and a Choice can see which source selected its kind.
#include "config/fill.h"

#include <algorithm>
#include <utility>

#include "config/hints.h"
#include "config/scalar.h"
#include "config/suggest.h"

namespace tern::config {
namespace {

using Layers = std::vector<const Node*>;

struct Owner {
  const Choice* choice = nullptr;  // whose record is being filled, if any
  std::string_view kind;
};

class Filler {
 public:
  Filler(const Section& root, Problems& problems) : root_(root), problems_(problems) {}

  Origins fill_root(const Layers& layers) {
    main_ = layers.front()->place;
    for (const Node* layer : layers) {
      if (!layer->place.source->is_override) main_ = {layer->place.source, 0, 0};
    }
    fill_section(root_, "", layers, {});
    return std::move(origins_);
  }

 private:
  void fill_section(const Section& section, const std::string& prefix, const Layers& given,
                    const Owner& owner) {
    const std::size_t mistakes_before = problems_.count();
    const Layers layers = maps_of(given, prefix);
    Fields fields;
    section(fields);
    refuse_unknown_keys(fields.list(), prefix, layers, owner);
    for (Field& field : fields.list()) fill_field(field, dotted(prefix, field.key), layers);
    // Rules between fields make sense only for values that are right by themselves.
    if (is_dropped_ || problems_.count() != mistakes_before) return;
    Fields filled;
    section(filled);
    for (const Fields::Violation& violation : filled.violations()) {
      const Node* value = nullptr;
      for (const Node* layer : layers) {
        if (const Node* found = layer->find(violation.key)) value = found;
      }
      problems_.add(
          value != nullptr ? value->place : section_place(layers),
          dotted(prefix, violation.key) + " " + violation.message + given_text(filled, violation.key));
    }
  }

  /// ", got 3": what stands in the record, given or default.
  static std::string given_text(Fields& fields, std::string_view key) {
    for (Field& field : fields.list())
      if (auto* slot = std::get_if<Slot>(&field.target); slot != nullptr && field.key == key)
        return ", got " + yaml_text(*slot, slot->get());
    return "";
  }

  Layers maps_of(const Layers& given, const std::string& prefix, const std::string& hint = "") {
    Layers maps;
    for (const Node* node : given) {
      if (node->type == NodeType::map) maps.push_back(node);
      if (node->type != NodeType::scalar && node->type != NodeType::list) continue;
      problems_.add(node->place, prefix + " must be a section of keys, got " + description(*node) + hint);
    }
    return maps;
  }

  void refuse_unknown_keys(std::deque<Field>& fields, const std::string& prefix, const Layers& layers,
                           const Owner& owner) {
    SectionView view{prefix, {}, &fields, owner.choice, owner.kind};
    for (const Field& field : fields) view.accepted.push_back(field.key);
    for (const Node* layer : layers) {
      for (const Node::Key& key : layer->keys) {
        const bool is_reserved =
            (owner.choice != nullptr && key.text == "kind") || (prefix.empty() && key.text == "base");
        if (is_reserved || std::ranges::find(view.accepted, key.text) != view.accepted.end()) continue;
        refuse_key(view, key, *layer->find(key.text));
      }
    }
  }

  void refuse_key(const SectionView& view, const Node::Key& key, const Node& value) {
    if (key.place.source->is_override && value.type == NodeType::map)
      return refuse_paths(view, dotted(view.prefix, key.text), value);
    problems_.add(key.place, problems_.is_full() ? "" : unknown_key_message(view, key.text, root_));
  }

  /// An override is known by its whole path, wherever on it the first unknown key stands.
  void refuse_paths(const SectionView& view, const std::string& prefix, const Node& section) {
    for (std::size_t i = 0; i < section.keys.size(); ++i) {
      const std::string path = dotted(prefix, section.keys[i].text);
      if (section.items[i]->type == NodeType::map) {
        refuse_paths(view, path, *section.items[i]);
      } else {
        problems_.add(section.keys[i].place,
                      problems_.is_full() ? "" : unknown_path_message(path, view, root_));
      }
    }
  }

  void fill_field(Field& field, const std::string& path, const Layers& layers) {
    Layers values;
    for (const Node* layer : layers) {
      if (const Node* value = layer->find(field.key)) values.push_back(value);
    }
    if (auto* const* choice = std::get_if<Choice*>(&field.target)) {
      fill_choice(**choice, path, values, section_place(layers));
    } else if (const auto* section = std::get_if<Section>(&field.target)) {
      fill_section(*section, path, values, {});
    } else {
      fill_slot(field, path, values, layers);
    }
  }

  void fill_slot(Field& field, const std::string& path, const Layers& values, const Layers& layers) {
    Slot& slot = std::get<Slot>(field.target);
    if (values.empty()) {
      if (!is_dropped_) check_default(field, slot, path, section_place(layers));
      return;
    }
    const Node& value = *values.back();
    if (value.type == NodeType::map && value.place.source->is_override)
      return refuse_paths({path, {}, nullptr, nullptr, {}}, path, value);
    Reading reading = read_slot(slot, value);
    if (!reading.values) {
      problems_.add(reading.place, path + " " + reading.mistake);
    } else if (!satisfies(field.constraint, slot, *reading.values)) {
      problems_.add(value.place,
                    path + " must be " + field.constraint.text + ", got " + yaml_text(slot, *reading.values));
    } else {
      slot.set(*reading.values);
      const Source& source = *value.place.source;
      origins_[path] = source.is_override ? source.name : source.name + ":" + std::to_string(value.place.line);
    }
  }

  /// A default may break its own constraint to say that the value has to be given. Paths become absolute here
  /// too.
  void check_default(Field& field, Slot& slot, const std::string& path, const Place& place) {
    std::vector<Scalar> values = slot.get();
    if (!satisfies(field.constraint, slot, values)) {
      problems_.add(place, path + " must be set, and " + field.constraint.text);
      return;
    }
    if (slot.type != ScalarType::path) return;
    for (Scalar& value : values) {
      auto& text = std::get<std::string>(value);
      if (!text.empty()) text = std::filesystem::absolute(text).lexically_normal().string();
    }
    slot.set(values);
  }

  static bool satisfies(const Constraint& constraint, const Slot& slot, const std::vector<Scalar>& values) {
    if (!constraint.holds) return true;
    if (slot.shape == SlotShape::list && values.empty()) return !constraint.refuses_empty_list;
    return std::ranges::all_of(values, constraint.holds);
  }

  void fill_choice(Choice& choice, const std::string& path, const Layers& given, const Place& parent_place) {
    const Layers layers = maps_of(given, path, "; did you mean " + path + ".kind?");
    std::string kind = choice.kind();
    auto first = layers.begin();
    for (auto layer = layers.begin(); layer != layers.end(); ++layer) {
      const Node* named = (*layer)->find("kind");
      if (named == nullptr) continue;
      if (!is_kind_of(choice, *named, path)) return;
      const Source& source = *named->place.source;
      origins_[path + ".kind"] =
          source.is_override ? source.name : source.name + ":" + std::to_string(named->place.line);
      if (named->text == kind) continue;
      check_dropped(choice, kind, path, Layers(first, layer));
      kind = named->text;
      first = layer;
    }
    if (kind.empty()) {
      const Place place = layers.empty() ? parent_place : layers.back()->place;
      problems_.add(place, path + ".kind must be set: one of " + joined(kind_names(choice)));
      return;
    }
    if (kind != choice.kind()) choice.select(kind);
    fill_section([&choice](Fields& f) { choice.fields(f); }, path, Layers(first, layers.end()),
                 {&choice, kind});
  }

  static std::vector<std::string> kind_names(const Choice& choice) {
    std::vector<std::string> names;
    for (const ChoiceKind& kind : choice.kinds()) names.push_back(kind.name);
    return names;
  }

  bool is_kind_of(const Choice& choice, const Node& named, const std::string& path) {
    const std::vector<std::string> names = kind_names(choice);
    const bool is_text = named.type == NodeType::scalar;
    if (is_text && std::ranges::find(names, named.text) != names.end()) return true;
    const auto near = is_text ? nearest(named.text, names, slip_limit(named.text)) : std::vector<std::string>{};
    const std::string hint = near.empty() ? "" : "; did you mean " + alternatives(near) + "?";
    problems_.add(named.place,
                  path + ".kind must be one of " + joined(names) + ", got " + description(named) + hint);
    return false;
  }

  /// What a later source dropped by selecting another kind must have been right for the kind it was written
  /// for.
  void check_dropped(const Choice& choice, const std::string& kind, const std::string& path,
                     const Layers& layers) {
    if (layers.empty()) return;
    Choice scratch(choice.kinds());
    if (!kind.empty()) scratch.select(kind);
    const Origins kept = origins_;
    const bool was_dropped = std::exchange(is_dropped_, true);
    if (kind.empty()) {
      problems_.add(layers.front()->place, path + ".kind must be set: one of " + joined(kind_names(choice)));
    } else {
      fill_section([&scratch](Fields& f) { scratch.fields(f); }, path, layers, {&scratch, kind});
    }
    is_dropped_ = was_dropped;
    origins_ = kept;
  }

  /// Where to point when a section lacks something: its last file, else the file that was asked for.
  Place section_place(const Layers& layers) const {
    Place place = main_;
    for (const Node* layer : layers) {
      if (!layer->place.source->is_override && layer->place.source == main_.source) place = layer->place;
    }
    return place;
  }

  const Section& root_;
  Problems& problems_;
  Origins origins_;
  Place main_;
  bool is_dropped_ = false;  // filling a scratch record only to check it
};

}  // namespace

Origins fill(const Section& root, const std::vector<std::shared_ptr<Node>>& layers, Problems& problems) {
  Layers nodes;
  for (const auto& layer : layers) nodes.push_back(layer.get());
  return Filler(root, problems).fill_root(nodes);
}

}  // namespace tern::config
