// Files, their bases and overrides become layers; fill() does the rest.
#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "config/document.h"
#include "config/fill.h"
#include "config/suggest.h"
#include "tern/config.h"

namespace tern::config {
namespace {

constexpr std::size_t max_base_depth = 8, max_files = 64, max_bytes_read = (std::size_t{1} << 20) + 1;

std::string read_file(const std::filesystem::path& file, const std::string& where) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (status.type() == std::filesystem::file_type::not_found)
    throw_error(ExitCode::missing_input, "{}there is no file {}", where, file);
  if (error) throw_error(ExitCode::missing_input, "{}{} cannot be opened: {}", where, file, error.message());
  if (std::filesystem::is_directory(status)) {
    throw_error(ExitCode::missing_input, "{}{} is a folder; name a YAML file", where, file);
  }
  std::ifstream in(file, std::ios::binary);
  if (!in) throw_error(ExitCode::missing_input, "{}{} cannot be opened; check its permissions", where, file);
  // One byte more than is allowed, so that a device file or a huge file ends as "larger than 1 MiB".
  std::string text(max_bytes_read, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) throw_error(ExitCode::io_error, "{}{} cannot be read", where, file);
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

/// The file without links; as it is named where that cannot be told, as of a pipe or where links form a circle.
std::filesystem::path place_of(const std::filesystem::path& file) {
  std::error_code failure;
  const auto place = std::filesystem::weakly_canonical(file, failure);
  return failure ? file : place;
}

class Reader {
 public:
  explicit Reader(Problems& problems) : problems_(problems) {}

  void add_file(const std::filesystem::path& file, const std::string& where) {
    const std::string text = read_file(file, where);
    chain_.push_back(place_of(file));
    chain_names_.push_back(file.string());
    add_text(text, file);
    chain_.pop_back();
    chain_names_.pop_back();
  }

  void add_text(std::string_view text, const std::filesystem::path& name) {
    auto source = std::make_shared<Source>(Source{name.string(), name.parent_path(), false, 0});
    source->order = files_++;
    const auto root = read_document(text, source, problems_);
    is_complete_ &= root && root->type == NodeType::map;
    if (!root) return;
    if (root->type == NodeType::null) {
      problems_.add({source, 0, 0}, "holds no keys; a configuration is a map of keys");
      return;
    }
    if (root->type != NodeType::map) {
      problems_.add(root->place, "must be a map of keys, got " + description(*root));
      return;
    }
    if (const Node* base = root->find("base")) add_bases(*base, name.parent_path());
    layers_.push_back(root);
  }

  void add_overrides(std::span<const std::string> overrides) {
    const auto root = std::make_shared<Node>();
    root->type = NodeType::map;
    for (const std::string& text : overrides) {
      const auto source = std::make_shared<Source>(Source{"--set " + text, {}, true, files_++});
      root->place = {source, 0, 0};
      add_override(*root, text, source);
    }
    if (!root->keys.empty()) layers_.push_back(root);
  }

  const std::vector<std::shared_ptr<Node>>& layers() const { return layers_; }
  /// Every file was a map of keys; without one of them, keys would only seem to be missing.
  bool is_complete() const { return is_complete_; }

 private:
  void add_bases(const Node& base, const std::filesystem::path& folder) {
    std::vector<const Node*> names{&base};
    if (base.type == NodeType::list) {
      names.clear();
      for (const auto& item : base.items) names.push_back(item.get());
    }
    for (const Node* name : names) {
      if (name->type != NodeType::scalar || name->text.empty()) {
        problems_.add(name->place, "base must be a file or a list of files, got " + description(*name));
      } else if (is_allowed(*name, folder / name->text)) {
        add_file((folder / name->text).lexically_normal(), name->place.text() + ": base: ");
      }
    }
  }

  bool is_allowed(const Node& name, const std::filesystem::path& file) {
    const auto target = place_of(file);
    const auto earlier = std::ranges::find(chain_, target);
    if (earlier != chain_.end()) {
      std::string chain;
      for (auto at = earlier; at != chain_.end(); ++at) {
        chain += chain_names_[static_cast<std::size_t>(at - chain_.begin())] + " -> ";
      }
      problems_.add(name.place, "base files form a circle: " + chain + file.lexically_normal().string());
      return false;
    }
    if (chain_.size() > max_base_depth) {
      problems_.add(name.place, "base files are nested deeper than 8");
      return false;
    }
    if (files_ < max_files) return true;
    problems_.add(name.place, "more than 64 base files");
    return false;
  }

  void add_override(Node& root, const std::string& text, const SourceRef& source) {
    const Place place{source, 0, 0};
    const std::size_t equals = text.find('=');
    const std::string path = text.substr(0, equals);
    if (equals == std::string::npos) {
      problems_.add(place, "must have the form key=value, such as --set optimizer.learning_rate=1e-4");
      return;
    }
    if (path.empty() || path.front() == '.' || path.back() == '.' || path.find("..") != std::string::npos) {
      problems_.add(place, "must begin with a key such as model.layers");
      return;
    }
    if (path == "base") {
      problems_.add(place, "base can only stand in a file");
      return;
    }
    const auto value = read_document(std::string_view(text).substr(equals + 1), source, problems_);
    if (!value) return;
    if (value->type == NodeType::map) {
      problems_.add(
          place, "must give one value, got a section of keys; set its keys one by one, quote text with \": \"");
      return;
    }
    insert(root, path, value, place);
  }

  /// Puts `value` at the dotted `path` of the tree of overrides; a later one replaces an earlier one.
  static void insert(Node& root, std::string_view path, const std::shared_ptr<Node>& value,
                     const Place& place) {
    Node* at = &root;
    while (true) {
      const std::size_t dot = path.find('.');
      const std::string key(path.substr(0, dot));
      const bool is_last = dot == std::string_view::npos;
      const auto known = std::ranges::find(at->keys, key, &Node::Key::text);
      const auto index = static_cast<std::size_t>(known - at->keys.begin());
      if (known == at->keys.end()) {
        at->keys.push_back({key, place});
        at->items.push_back(nullptr);
      }
      std::shared_ptr<Node>& slot = at->items[index];
      if (is_last) {
        slot = value;
        at->keys[index].place = place;
        return;
      }
      if (!slot || slot->type != NodeType::map) {
        slot = std::make_shared<Node>();
        slot->type = NodeType::map;
      }
      slot->place = place;
      at = slot.get();
      path.remove_prefix(dot + 1);
    }
  }

  Problems& problems_;
  std::vector<std::shared_ptr<Node>> layers_;
  std::vector<std::filesystem::path> chain_;
  std::vector<std::string> chain_names_;
  std::size_t files_ = 0;
  bool is_complete_ = true;
};

Origins fill_from(const Section& root, Reader& reader, std::span<const std::string> overrides,
                  Problems& problems) {
  reader.add_overrides(overrides);
  Origins origins;
  if (reader.is_complete()) origins = fill(root, reader.layers(), problems);
  problems.throw_if_any();
  return origins;
}

}  // namespace

namespace detail {

Origins load(const Section& root, const std::filesystem::path& file, std::span<const std::string> overrides) {
  Problems problems;
  Reader reader(problems);
  reader.add_file(file, "");
  return fill_from(root, reader, overrides, problems);
}

Origins load_text(const Section& root, std::string_view text, const std::filesystem::path& name,
                  std::span<const std::string> overrides) {
  Problems problems;
  Reader reader(problems);
  reader.add_text(text, name);
  return fill_from(root, reader, overrides, problems);
}

}  // namespace detail

std::vector<std::string> top_keys(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) return {};
  Problems problems;  // whoever loads the file reports them
  const auto source = std::make_shared<Source>(Source{file.string(), {}, false, 0});
  const auto root = read_document(read_file(file, ""), source, problems);
  std::vector<std::string> keys;
  if (root)
    for (const Node::Key& key : root->keys) keys.push_back(key.text);
  return keys;
}

}  // namespace tern::config
