// What holds for mistakes of any kind: all at once, in order, counted, harmless.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/bad_document.h"
#include "tern/random.h"

namespace tern {
namespace {

using namespace sample;

TEST(Mistakes, all_mistakes_come_together_in_order) {
  const std::string message =
      mistakes("run:\n  seed: -1\n  nam: x\n  seed: 2\nmodel:\n  layers: 0\n  dropout: x\n" + task,
               {"training.stesp=3", "training.clip=-1"});
  const std::vector<std::string> lines = lines_of(message);
  const std::vector<std::string> starts = {"file.yaml:2:",
                                           "file.yaml:3:",
                                           "file.yaml:4:",
                                           "file.yaml:6:",
                                           "file.yaml:7:",
                                           "--set training.stesp=3: training.stesp",
                                           "--set training.clip=-1: training.clip"};
  ASSERT_EQ(lines.size(), starts.size()) << message;
  for (std::size_t i = 0; i < starts.size(); ++i) EXPECT_TRUE(lines[i].starts_with(starts[i])) << message;
}

TEST(Mistakes, many_mistakes_are_counted) {
  std::string text = task + "run:\n";
  for (int i = 0; i < 30000; ++i) text += "  unknown_" + std::to_string(i) + ": 1\n";
  const std::vector<std::string> lines = lines_of(mistakes(text));
  ASSERT_EQ(lines.size(), 101u);
  EXPECT_EQ(lines.back(), "and 29900 more mistakes");
}

TEST(Mistakes, terminal_codes_are_escaped) {
  const std::string message = mistakes(task + "run: {\"\\x1b[31m\": 1, check_finite: \"\\x07\"}\n");
  EXPECT_NE(message.find("\\x1b[31m"), message.npos);
  EXPECT_EQ(message.find('\x1b'), message.npos);
  EXPECT_EQ(message.find('\x07'), message.npos);
}

TEST(Mistakes, a_failed_load_changes_nothing) {
  sample::ExperimentConfig record;
  record.model.layers = 7;
  const std::string before = config::dump(record);
  EXPECT_THROW(config::load_text(record, task + "model: {layers: 3, heads: x}\n", "file.yaml"), Error);
  EXPECT_EQ(config::dump(record), before);
}

TEST(Mistakes, random_tokens_never_escape_as_another_exception) {
  const std::vector<std::string> tokens = {
      "run", "model", "attention", "kind", "yoso", ": ",  ":",   "\n", "\n  ", "- ", "[",  "]",  "{",
      "}",   ", ",    "&a",        "*a",   "|",    ">",   "\"",  "'",  "#",    "? ", "!",  "!!", "%",
      "~",   "1",     "-0",        "\t",   "base", "---", "...", "@",  "`",    "\\", "<<", "é",  "\r\n"};
  int refused = 0;
  for (std::uint32_t document = 0; document < 4000; ++document) {
    std::string text;
    for (std::uint32_t i = 0; i < 1 + document % 40; ++i) {
      text += tokens[philox({{i, document, 0, 0}}, {7, 7}).word[0] % tokens.size()];
    }
    sample::ExperimentConfig record;
    try {
      config::load_text(record, text, "file.yaml");
    } catch (const Error& error) {
      ++refused;
      const bool is_expected = error.code() == ExitCode::bad_config || error.code() == ExitCode::missing_input;
      EXPECT_TRUE(is_expected) << text << "\n" << error.what();
    }
  }
  EXPECT_EQ(refused, 4000);
}

}  // namespace
}  // namespace tern
