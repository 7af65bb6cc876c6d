#include "tasks/listops_source.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "tasks/listops_generator.h"
#include "tasks/published_lines.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr std::array<PublishedFile, 3> published{
    {{"train", "basic_train.tsv", 96000}, {"dev", "basic_val.tsv", 2000}, {"test", "basic_test.tsv", 2000}}};

struct Word {
  std::string_view text;
  std::uint8_t token;
};
constexpr std::array<Word, 5> words{{{"[MIN", listops_min},
                                     {"[MAX", listops_max},
                                     {"[MED", listops_med},
                                     {"[SM", listops_sm},
                                     {"]", listops_close}}};

std::uint8_t token_of(std::string_view word) {
  if (word.size() == 1 && word[0] >= '0' && word[0] <= '9')
    return static_cast<std::uint8_t>(listops_digit + word[0] - '0');
  const auto found =
      std::find_if(words.begin(), words.end(), [&](const Word& each) { return each.text == word; });
  if (found == words.end()) throw_error(ExitCode::bad_data, "the expression holds \"{}\"", word);
  return found->token;
}

/// Error(bad_data) naming a word that is no token.
std::vector<std::uint8_t> tokens_of(std::string_view expression) {
  constexpr std::string_view blanks = " ()";
  std::vector<std::uint8_t> tokens;
  for (std::size_t at = expression.find_first_not_of(blanks); at != expression.npos;) {
    const std::size_t end = std::min(expression.find_first_of(blanks, at), expression.size());
    tokens.push_back(token_of(expression.substr(at, end - at)));
    at = expression.find_first_not_of(blanks, end);
  }
  return tokens;
}

/// Writes one line; Error(bad_data) saying why it cannot be used.
void append(data::RecordWriter& writer, std::string_view line) {
  const std::vector<std::string_view> fields = tab_fields(line, 3);
  if (fields.size() != 2 || fields[1].size() != 1)
    throw_error(ExitCode::bad_data, "must be: expression TAB value");
  const std::vector<std::uint8_t> tokens = tokens_of(fields[0]);
  const int value = evaluate_listops(tokens);
  if (fields[1][0] - '0' != value)
    throw_error(ExitCode::bad_data, "the value of the expression is {}, got {}", value, fields[1]);
  writer.append(std::span(tokens), std::int32_t{value});
}

}  // namespace

Sources listops_sources(std::vector<std::filesystem::path> paths) {
  return published_sources(std::move(paths), published, "basic_{train,val,test}.tsv");
}

data::RecordHeader published_listops_header() {
  data::RecordHeader header;
  header.task = "listops";
  header.vocabulary = listops_vocabulary;
  header.classes = listops_classes;
  header.padded_length = 2048;
  return header;
}

void prepare_published_listops(const Sources& sources, Preparation& preparation) {
  prepare_lines(sources, published, 1, append, preparation);
}

}  // namespace tern::tasks
