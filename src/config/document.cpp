// The only reader of YAML events; everything behind it sees Node.
#include "config/document.h"

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include "config/text_check.h"
#include "tern/error.h"

namespace tern::config {
namespace {

constexpr std::size_t max_depth = 64, max_nodes = 100000, max_aliases = 100;

/// A mistake that ends reading.
struct Refusal {
  YAML::Mark mark;
  std::string message;
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(SourceRef source, Problems& problems) : source_(std::move(source)), problems_(problems) {}
  std::shared_ptr<Node> root() const { return root_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1)
      throw Refusal{mark, "unexpected text after the document; a file holds one YAML document"};
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    finish(start(NodeType::null, mark, "?"), anchor, mark);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    auto node = start(NodeType::scalar, mark, tag);
    node->text = value;
    node->is_quoted = tag == "!";
    finish(node, anchor, mark);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (++aliases_ > max_aliases) throw Refusal{mark, "more than 100 aliases (*name); write the values out"};
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Refusal{mark, "an alias (*name) stands inside the value that it names"};
    count_nodes(found->second->size, mark);
    attach(found->second, mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(NodeType::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(NodeType::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    std::shared_ptr<Node> node;
    YAML::anchor_t anchor;
    YAML::Mark mark;
    std::unordered_map<std::string, int> lines;  // of the keys so far
  };

  Place place(const YAML::Mark& mark) const { return {source_, mark.line + 1, mark.column + 1}; }

  void count_nodes(std::size_t more, const YAML::Mark& mark) {
    nodes_ += more;
    if (nodes_ > max_nodes)
      throw Refusal{mark, "more than 100000 values (aliases counted where they are used)"};
  }

  std::shared_ptr<Node> start(NodeType type, const YAML::Mark& mark, const std::string& tag) {
    count_nodes(1, mark);
    if (!tag.empty() && tag != "?" && tag != "!") {
      problems_.add(place(mark), "tags such as " + in_quotes(tag) + " are not supported; remove the tag");
    }
    auto node = std::make_shared<Node>();
    node->type = type;
    node->place = place(mark);
    return node;
  }

  void open(NodeType type, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (frames_.size() >= max_depth) throw Refusal{mark, "nested deeper than 64 levels"};
    if (expects_key()) throw Refusal{mark, "a key must be plain text, not a list or map"};
    frames_.push_back({start(type, mark, tag), anchor, mark, {}});
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    finish(frame.node, frame.anchor, frame.mark);
  }

  void finish(const std::shared_ptr<Node>& node, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != YAML::NullAnchor) anchors_[anchor] = node;
    attach(node, mark);
  }

  bool expects_key() const {
    if (frames_.empty()) return false;
    const Node& parent = *frames_.back().node;
    return parent.type == NodeType::map && parent.keys.size() == parent.items.size();
  }

  void attach(const std::shared_ptr<Node>& node, const YAML::Mark& mark) {
    if (frames_.empty()) {
      root_ = node;
      return;
    }
    Frame& frame = frames_.back();
    frame.node->size += node->size;
    if (!expects_key()) {
      // The parser places a missing value at whatever comes next, perhaps lines below.
      const bool is_missing = node->type == NodeType::null && frame.node->type == NodeType::map;
      if (is_missing) node->place = frame.node->keys.back().place;
      frame.node->items.push_back(node);
      return;
    }
    if (node->type != NodeType::scalar)
      throw Refusal{mark, "a key must be plain text, got " + description(*node)};
    const auto [earlier, is_new] = frame.lines.emplace(node->text, mark.line + 1);
    if (!is_new) {
      problems_.add(place(mark), format_text("{} is given twice in this section, first on line {}; remove one",
                                             in_quotes(node->text), earlier->second));
    }
    frame.node->keys.push_back({node->text, place(mark)});
  }

  SourceRef source_;
  Problems& problems_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, std::shared_ptr<Node>> anchors_;
  std::shared_ptr<Node> root_;
  std::size_t nodes_ = 0, aliases_ = 0;
  int documents_ = 0;
};

}  // namespace

std::string Place::text() const {
  if (source->is_override || line == 0) return source->name;
  return source->name + ":" + std::to_string(line) + ":" + std::to_string(column);
}

const Node* Node::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size() && i < items.size(); ++i) {
    if (keys[i].text == key) return items[i].get();
  }
  return nullptr;
}

void Problems::add(const Place& place, std::string message) {
  ++count_;
  if (is_full()) return;
  list_.push_back({place.source->order, place.line, place.column, place.text() + ": " + std::move(message)});
}

void Problems::throw_if_any() {
  if (count_ == 0) return;
  std::stable_sort(list_.begin(), list_.end(), [](const Problem& a, const Problem& b) {
    return std::tuple(a.order, a.line, a.column) < std::tuple(b.order, b.line, b.column);
  });
  std::string text;
  for (const Problem& problem : list_) text += (text.empty() ? "" : "\n") + problem.text;
  if (count_ > list_.size()) text += format_text("\nand {} more mistakes", count_ - list_.size());
  throw Error(ExitCode::bad_config, text);
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 60;
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool starts_character = (byte & 0xC0u) != 0x80u;
    if (i >= longest && starts_character) return out + "…\"";
    if (byte < 0x20 || byte == 0x7F) {
      out += std::string("\\x") + digits[byte >> 4] + digits[byte & 15];
    } else {
      if (byte == '"' || byte == '\\') out += '\\';
      out += text[i];
    }
  }
  return out + "\"";
}

std::string description(const Node& node) {
  switch (node.type) {
    case NodeType::null:
      return "no value";
    case NodeType::list:
      return "a list";
    case NodeType::map:
      return "a section of keys";
    case NodeType::scalar:
      break;
  }
  return node.is_quoted ? "the quoted text " + in_quotes(node.text) : in_quotes(node.text);
}

std::shared_ptr<Node> read_document(std::string_view text, const SourceRef& source, Problems& problems) {
  const std::optional<std::string> clean = checked_text(text, source, problems);
  if (!clean) return nullptr;
  TreeBuilder builder(source, problems);
  try {
    std::istringstream stream(*clean);
    YAML::Parser parser(stream);
    // The second call only tells whether anything follows; asking on until the end would never return for ",".
    if (parser.HandleNextDocument(builder)) parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& error) {
    const bool is_known = !error.mark.is_null();
    problems.add({source, is_known ? error.mark.line + 1 : 0, is_known ? error.mark.column + 1 : 0},
                 "not valid YAML: " + error.msg);
    return nullptr;
  } catch (const Refusal& refusal) {
    problems.add({source, refusal.mark.line + 1, refusal.mark.column + 1}, refusal.message);
    return nullptr;
  }
  if (auto root = builder.root()) return root;
  auto empty = std::make_shared<Node>();
  empty->place = {source, 0, 0};
  return empty;
}

}  // namespace tern::config
