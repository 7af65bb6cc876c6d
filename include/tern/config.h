// Configuration records: each lists its fields once, and everything else follows from that list.
//
//   enum class Rounding { nearest, down };
//   constexpr auto enum_names(Rounding) {
//     return std::array{EnumName{Rounding::nearest, "nearest"}, EnumName{Rounding::down, "down"}};
//   }
//
//   struct NystromConfig {
//     int landmarks = 64;                       // the default stands here and nowhere else
//     double dropout = 0;
//     Rounding rounding = Rounding::nearest;
//     void fields(Fields& f) {
//       f("landmarks", landmarks, "rows kept for the approximation", at_least(1)).renamed_from("rows");
//       f("dropout", dropout, "share of weights dropped in training", at_least(0) && below(1)).changeable();
//       f("rounding", rounding, "how lengths become whole segments");
//       f.require(landmarks % 2 == 0 || rounding == Rounding::down, "landmarks",
//                 "must be even unless rounding is down");
//     }
//   };
//
//   ExperimentConfig experiment;
//   config::load(experiment, "configs/lra/text.yaml", overrides);  // such as {"model.attention.kind=yoso"}
//   std::cout << config::dump(experiment);
//
// A variable may be bool, int, std::int64_t, std::uint64_t, double, std::string, std::filesystem::path, an enum
// with enum_names, a std::vector or std::optional of these, another record, or a Choice between records. Record
// authors' words live in tern, the operations on whole records in tern::config.
#pragma once

#include <array>
#include <deque>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tern/config_slot.h"
#include "tern/error.h"

namespace tern {

class Fields;
class Choice;

/// A record lists its variables in fields().
template <class T>
concept HasFields = requires(T& record, Fields& f) {
  record.fields(f);
};

/// What a value must satisfy, with the words for it ("at least 1"). In a list, every item must satisfy it.
struct Constraint {
  std::string text;
  std::function<bool(const Scalar&)> holds;
  bool refuses_empty_list = false;
};
Constraint at_least(double lowest);
Constraint at_most(double highest);
Constraint between(double lowest, double highest);  ///< both ends allowed
Constraint above(double limit);                     ///< the limit itself is refused
Constraint below(double limit);                     ///< the limit itself is refused
Constraint positive();
Constraint odd_or_zero();
Constraint one_of(std::initializer_list<std::string_view> words);
Constraint one_of(std::initializer_list<double> numbers);
/// Text, path or list that is not empty. With an empty default it makes a field mandatory.
Constraint not_empty();
/// Both must hold.
Constraint operator&&(const Constraint& first, const Constraint& second);

/// A nested record: lists its fields into the given list.
using Section = std::function<void(Fields&)>;

/// One entry of a record's list.
struct Field {
  std::string key, meaning;
  Constraint constraint;
  std::variant<Slot, Section, Choice*> target;
  bool is_changeable = false;
  std::vector<std::string> old_keys;

  /// A resumed run may differ here; on a section or Choice it covers everything inside.
  Field& changeable() {
    is_changeable = true;
    return *this;
  }
  /// A former key: a file that still uses it is told the new one. Bare within the same record, or dotted from
  /// the root.
  Field& renamed_from(std::string_view old_key) {
    old_keys.emplace_back(old_key);
    return *this;
  }
};

/// The list that a record fills in fields(). Keys are unique within a record.
class Fields {
 public:
  /// Lists `variable` under `key`; `meaning` is one phrase for the reference, `constraint` the allowed values.
  template <class T>
  Field& operator()(std::string_view key, T& variable, std::string_view meaning, Constraint constraint = {});

  /// Cross-field rule, asked after all fields of the record are read: "<section>.<key> <message>, got <value>"
  /// is an error if false; the message names the other keys with their values. fields() also runs on records
  /// that nobody checked: the condition must be safe for any values.
  void require(bool holds, std::string_view key, std::string_view message);

  struct Violation {
    std::string key, message;
  };
  std::deque<Field>& list() { return list_; }
  const std::vector<Violation>& violations() const { return violations_; }

 private:
  Field& add(std::string_view key, std::string_view meaning, Constraint constraint,
             std::variant<Slot, Section, Choice*> target);
  std::deque<Field> list_;
  std::vector<Violation> violations_;
};

/// The selected record of a Choice, without its static type; made by choice_kind.
struct Record {
  virtual ~Record() = default;
  virtual void fields(Fields& f) = 0;
  virtual std::unique_ptr<Record> clone() const = 0;
};

/// One of the records that a Choice may hold.
struct ChoiceKind {
  std::string name, summary;
  std::function<std::unique_ptr<Record>()> make;
};

namespace detail {
template <class T>
struct RecordOf final : Record {
  T value{};
  void fields(Fields& f) override { value.fields(f); }
  std::unique_ptr<Record> clone() const override { return std::make_unique<RecordOf>(*this); }
};
}  // namespace detail

/// A kind whose record is T, a default-constructible copyable type with fields().
template <HasFields T>
ChoiceKind choice_kind(std::string_view name, std::string_view summary) {
  return {std::string(name), std::string(summary), [] { return std::make_unique<detail::RecordOf<T>>(); }};
}

/// One of several records, selected in its section by the key `kind`:
///
///   attention:
///     kind: nystrom
///     landmarks: 64
///
/// When a later source (file over base, --set over files) selects another kind, everything that earlier sources
/// set in the section is dropped, also keys that both kinds share: settings of one kind never leak into
/// another. What is dropped must still be valid for the kind it was written for. All --set together are one
/// source, so their order does not matter here.
class Choice {
 public:
  /// Nothing selected: a file must name the kind. `kinds` must outlive the Choice and its copies.
  explicit Choice(std::span<const ChoiceKind> kinds) : kinds_(kinds) {}
  /// `selected` with its defaults. Throws bad_config if it is not among `kinds`.
  Choice(std::span<const ChoiceKind> kinds, std::string_view selected) : kinds_(kinds) { select(selected); }
  Choice(const Choice& other) : kinds_(other.kinds_), kind_(other.kind_), record_(copy_of(other)) {}
  Choice(Choice&&) noexcept = default;
  Choice& operator=(const Choice& other) { return *this = Choice(other); }
  Choice& operator=(Choice&&) noexcept = default;
  ~Choice() = default;

  std::span<const ChoiceKind> kinds() const { return kinds_; }
  /// Name of the selected kind; empty while nothing is selected.
  const std::string& kind() const { return kind_; }
  /// Replaces the record by `kind` with its defaults. Throws bad_config, naming the kinds, if there is no such
  /// kind.
  void select(std::string_view kind);
  /// Lists the selected record's fields; none while nothing is selected.
  void fields(Fields& f) const {
    if (record_) record_->fields(f);
  }

  /// The selected record, which must have been registered as T; another type is our bug (ensure).
  template <class T>
  T& as() {
    return const_cast<T&>(std::as_const(*this).template as<T>());
  }
  template <class T>
  const T& as() const {
    const auto* typed = dynamic_cast<const detail::RecordOf<T>*>(record_.get());
    ensure(typed != nullptr, "choice: kind \"{}\" does not hold the record asked for", kind_);
    return typed->value;
  }

 private:
  static std::unique_ptr<Record> copy_of(const Choice& other) {
    return other.record_ ? other.record_->clone() : nullptr;
  }
  std::span<const ChoiceKind> kinds_;
  std::string kind_;
  std::unique_ptr<Record> record_;
};

namespace config {

/// Where each value that is not a default was set: dotted key -> "file:line" or "--set".
using Origins = std::map<std::string, std::string>;

/// One key in which two records differ; a key that one side lacks (other kind of a Choice) has no value there.
struct Difference {
  std::string key;
  std::optional<std::string> before, after;
  bool changeable = false;
};

/// Dotted key and YAML text of every value, in listing order.
using Values = std::vector<std::pair<std::string, std::string>>;

namespace detail {
Origins load(const Section& root, const std::filesystem::path& file, std::span<const std::string> overrides);
Origins load_text(const Section& root, std::string_view text, const std::filesystem::path& name,
                  std::span<const std::string> overrides);
std::string dump(const Section& root, const Origins* origins);
std::vector<Difference> diff(const Section& before, const Section& after);
std::string reference_markdown(const Section& root, std::string_view title);
std::vector<std::string> keys(const Section& root);
Values values(const Section& root);
template <HasFields T>
Section section_of(T& record) {
  return [&record](Fields& f) { record.fields(f); };
}
}  // namespace detail

/// Reads `file` over the values that `record` holds, after the files that its `base:` names and before the
/// `overrides` ("a.b=c", typed by the record; the value is a YAML scalar or [list]).
///
/// Later sources win key by key; lists are replaced whole. Relative paths in values are taken from the folder
/// of the file that sets them (overrides and defaults: from the working directory) and become absolute; empty
/// paths stay empty. All mistakes are thrown together as one Error (bad_config), a line each, and `record` is
/// left as it was; a file that is not there is missing_input.
template <HasFields T>
Origins load(T& record, const std::filesystem::path& file, std::span<const std::string> overrides = {}) {
  T loaded = record;
  Origins origins = detail::load(detail::section_of(loaded), file, overrides);
  record = std::move(loaded);
  return origins;
}

/// As load, from text; `name` stands in messages, and its folder is where relative paths start.
template <HasFields T>
Origins load_text(T& record, std::string_view text, const std::filesystem::path& name,
                  std::span<const std::string> overrides = {}) {
  T loaded = record;
  Origins origins = detail::load_text(detail::section_of(loaded), text, name, overrides);
  record = std::move(loaded);
  return origins;
}

/// Keys at the top of a regular file, without those of its `base:` files: they tell what kind of file it is.
/// None of text that is no YAML, and none of a pipe, which can be read but once.
std::vector<std::string> top_keys(const std::filesystem::path& file);

/// YAML text that loads back to the same values, bit for bit (relative paths excepted: load makes them
/// absolute).
template <HasFields T>
std::string dump(const T& record) {
  T copy = record;
  return detail::dump(detail::section_of(copy), nullptr);
}

/// dump with "# origin" after each value: file:line, --set or default.
template <HasFields T>
std::string dump_with_origin(const T& record, const Origins& origins) {
  T copy = record;
  return detail::dump(detail::section_of(copy), &origins);
}

/// The keys whose values differ, in listing order, with both values as YAML text. Quadratic in the keys of one
/// record.
template <HasFields T>
std::vector<Difference> diff(const T& before, const T& after) {
  T first = before, second = after;
  return detail::diff(detail::section_of(first), detail::section_of(second));
}

/// Every value that `record` holds; a Choice gives its `kind` and the keys of that kind.
template <HasFields T>
Values values(const T& record) {
  T copy = record;
  return detail::values(detail::section_of(copy));
}

/// Markdown tables (key, type, default, range, meaning): one per section and one per kind of each Choice.
template <HasFields T>
std::string reference_markdown(const T& record, std::string_view title) {
  T copy = record;
  return detail::reference_markdown(detail::section_of(copy), title);
}

/// All dotted keys that a file may set, in listing order; a Choice gives its `kind` and the keys of every kind.
template <HasFields T>
std::vector<std::string> keys(const T& record) {
  T copy = record;
  return detail::keys(detail::section_of(copy));
}

}  // namespace config

template <class T>
Field& Fields::operator()(std::string_view key, T& variable, std::string_view meaning, Constraint constraint) {
  if constexpr (std::is_same_v<T, Choice>) {
    return add(key, meaning, std::move(constraint), &variable);
  } else if constexpr (HasFields<T>) {
    return add(key, meaning, std::move(constraint), Section([&variable](Fields& f) { variable.fields(f); }));
  } else {
    static_assert(detail::SlotOf<T>::supported,
                  "a field must have one of the types named at the top of config.h");
    return add(key, meaning, std::move(constraint), detail::SlotOf<T>::make(variable));
  }
}

}  // namespace tern
