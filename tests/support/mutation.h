// Damaged and hostile variants of sound inputs, the same on every run; and the check of what readers make of
// them: they return, or refuse with an error of the right kind, soon and within bounded memory.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "tern/error.h"
#include "tern/random.h"

namespace tern::test {

/// Draws faults: equal seeds give equal variants.
class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : key_(stream_key(seed, "mutation")) {}

  /// One to three faults: bits flipped, bytes and numbers replaced, ranges and lines removed or repeated, ends
  /// cut off; huge numbers, NUL bytes, wrong UTF-8, deep nesting and endless lines put in.
  std::string damaged(std::string bytes);
  /// A JSON text with one value of its tree replaced, removed, repeated or moved.
  std::string changed_json(std::string_view text);

 private:
  std::size_t below(std::size_t count);
  template <class Items>
  auto one_of(const Items& items) {
    return *(std::begin(items) + below(std::size(items)));
  }
  std::string hostile_text();
  void change_bytes(std::string& bytes);
  void change_range(std::string& bytes);
  void change_line(std::string& bytes);
  void change_number(std::string& bytes);

  PhiloxKey key_;
  std::uint32_t draws_ = 0;
};

/// How `sound` is varied for feed().
enum class Variation { bytes, json };

struct Fed {
  int accepted = 0, refused = 0;
};

/// Gives `count` variants of `sound`, without those that equal it, to `read` (TERN_MUTATIONS times as many
/// where that is set). A test failure for each at which `read` throws anything but an Error with one of
/// `codes`, works for more than a second of processor time, or asks for more than 256 MiB.
Fed feed(const std::string& sound, Variation variation, int count, std::initializer_list<ExitCode> codes,
         const std::function<void(const std::string&)>& read);

}  // namespace tern::test
