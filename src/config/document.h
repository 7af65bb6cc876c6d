// YAML text as a small tree in which every key and value knows its place.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tern::config {

/// A file, or one --set.
struct Source {
  std::string name;              ///< as it stands in messages
  std::filesystem::path folder;  ///< where relative paths start; empty = working directory
  bool is_override = false;
  std::size_t order = 0;  ///< in which mistakes are listed: as opened, overrides last
};
using SourceRef = std::shared_ptr<const Source>;

/// Where something stands; line 0 means the source as a whole.
struct Place {
  SourceRef source;
  int line = 0, column = 0;
  /// "file:line:column", "file" or "--set a.b=c".
  std::string text() const;
};

enum class NodeType { null, scalar, list, map };

struct Node {
  struct Key {
    std::string text;
    Place place;
  };
  NodeType type = NodeType::null;
  std::string text;  ///< of a scalar
  bool is_quoted = false;
  Place place;
  std::vector<Key> keys;                     ///< of a map
  std::vector<std::shared_ptr<Node>> items;  ///< values of a map in the order of `keys`, or items of a list
  std::size_t size = 1;                      ///< nodes in this tree, aliases counted where they are used

  /// Value of `key` in a map, or null. Linear in the keys.
  const Node* find(std::string_view key) const;
};

/// Mistakes of all sources, to be thrown together.
class Problems {
 public:
  void add(const Place& place, std::string message);
  std::size_t count() const { return count_; }
  /// Beyond this many, mistakes are only counted: callers may skip costly hints.
  bool is_full() const { return list_.size() >= shown; }
  /// Throws Error(bad_config) with one line per mistake, by source, line and column; returns if there is none.
  void throw_if_any();

 private:
  static constexpr std::size_t shown = 100;
  struct Problem {
    std::size_t order;
    int line, column;
    std::string text;
  };
  std::vector<Problem> list_;
  std::size_t count_ = 0;
};

/// `text` in quotation marks for a message: control characters escaped, long text cut.
std::string in_quotes(std::string_view text);
/// What a node is, for "must be …, got …".
std::string description(const Node& node);

/// The tree of one YAML document of at most 1 MiB, 64 levels, 100000 nodes and 100 aliases. Null after a
/// mistake that ends reading, which is then in `problems`; duplicate keys and tags are added to `problems` too.
std::shared_ptr<Node> read_document(std::string_view text, const SourceRef& source, Problems& problems);

}  // namespace tern::config
