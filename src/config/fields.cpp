// Constraints, the field list and Choice.
#include <algorithm>

#include "config/scalar.h"
#include "config/suggest.h"
#include "tern/config.h"

namespace tern {
namespace {

/// long double holds every 64-bit integer and every double exactly on x86-64.
bool number_satisfies(const Scalar& value, const std::function<bool(long double)>& rule) {
  return std::visit(
      [&](const auto& typed) {
        if constexpr (std::is_same_v<std::decay_t<decltype(typed)>, std::string>) {
          return false;
        } else {
          return rule(static_cast<long double>(typed));
        }
      },
      value);
}

Constraint numeric(std::string text, std::function<bool(long double)> rule) {
  return {std::move(text),
          [rule = std::move(rule)](const Scalar& value) { return number_satisfies(value, rule); }, false};
}

}  // namespace

Constraint at_least(double lowest) {
  return numeric("at least " + config::number_text(lowest), [lowest](long double x) { return x >= lowest; });
}
Constraint at_most(double highest) {
  return numeric("at most " + config::number_text(highest), [highest](long double x) { return x <= highest; });
}
Constraint between(double lowest, double highest) {
  return numeric("in [" + config::number_text(lowest) + ", " + config::number_text(highest) + "]",
                 [lowest, highest](long double x) { return x >= lowest && x <= highest; });
}
Constraint above(double limit) {
  return numeric("above " + config::number_text(limit), [limit](long double x) { return x > limit; });
}
Constraint below(double limit) {
  return numeric("below " + config::number_text(limit), [limit](long double x) { return x < limit; });
}
Constraint positive() {
  return numeric("positive", [](long double x) { return x > 0; });
}
Constraint odd_or_zero() {
  // Halving is exact, so a whole odd number is one that halving leaves with a half.
  return numeric("odd, or 0", [](long double x) {
    const auto whole = static_cast<std::int64_t>(x);
    return x == 0 || (static_cast<long double>(whole) == x && whole % 2 != 0);
  });
}

Constraint one_of(std::initializer_list<std::string_view> words) {
  const std::vector<std::string> allowed(words.begin(), words.end());
  return {"one of " + config::joined(allowed),
          [allowed](const Scalar& value) {
            const auto* text = std::get_if<std::string>(&value);
            return text != nullptr && std::ranges::find(allowed, *text) != allowed.end();
          },
          false};
}

Constraint one_of(std::initializer_list<double> numbers) {
  const std::vector<double> allowed(numbers);
  std::vector<std::string> texts;
  for (const double number : allowed) texts.push_back(config::number_text(number));
  return numeric("one of " + config::joined(texts), [allowed](long double x) {
    return std::ranges::any_of(allowed, [x](double number) { return x == number; });
  });
}

Constraint not_empty() {
  return {"not empty",
          [](const Scalar& value) {
            const auto* text = std::get_if<std::string>(&value);
            return text == nullptr || !text->empty();
          },
          true};
}

Constraint operator&&(const Constraint& first, const Constraint& second) {
  return {first.text + " and " + second.text,
          [first = first.holds, second = second.holds](const Scalar& value) {
            return first(value) && second(value);
          },
          first.refuses_empty_list || second.refuses_empty_list};
}

Field& Fields::add(std::string_view key, std::string_view meaning, Constraint constraint,
                   std::variant<Slot, Section, Choice*> target) {
  const bool is_word = !key.empty() && key.find_first_of(".= \t\n:#") == std::string_view::npos;
  ensure(is_word, "config: \"{}\" cannot be the key of a field", key);
  const bool is_new = std::ranges::none_of(list_, [&](const Field& field) { return field.key == key; });
  ensure(is_new, "config: a record lists the key {} twice", key);
  list_.push_back(
      {std::string(key), std::string(meaning), std::move(constraint), std::move(target), false, {}});
  return list_.back();
}

void Fields::require(bool holds, std::string_view key, std::string_view message) {
  if (!holds) violations_.push_back({std::string(key), std::string(message)});
}

void Choice::select(std::string_view kind) {
  std::vector<std::string> names;
  for (const ChoiceKind& candidate : kinds_) {
    if (candidate.name == kind) {
      record_ = candidate.make();
      kind_ = candidate.name;
      return;
    }
    names.push_back(candidate.name);
  }
  throw_error(ExitCode::bad_config, "choice: kind must be one of {}, got {}", config::joined(names),
              config::in_quotes(kind));
}

}  // namespace tern
