// "did you mean …?"
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tern::config {

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other (optimal
/// string alignment), capitals and - for _ not counted. Cost: product of the lengths.
int edit_distance(std::string_view first, std::string_view second);

/// The candidates nearest to `word`, at most three, all equally near; none beyond `limit` edits.
std::vector<std::string> nearest(std::string_view word, std::span<const std::string> candidates, int limit);

/// Edits that may still be a slip of the keyboard: a third of the word, at least one.
int slip_limit(std::string_view word);

/// "a", "a or b", "a, b or c".
std::string alternatives(std::span<const std::string> words);
/// "a, b, c".
std::string joined(std::span<const std::string> words);

}  // namespace tern::config
