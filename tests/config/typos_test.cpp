// Every single-edit typo of every key must be answered with that key.
#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/sample_records.h"
#include "config/suggest.h"

namespace tern {
namespace {

std::vector<std::string> single_edits(const std::string& word) {
  std::vector<std::string> edits;
  for (std::size_t i = 0; i < word.size(); ++i) {
    std::string less = word, doubled = word, other = word, swapped = word;
    less.erase(i, 1);
    doubled.insert(i, 1, word[i]);
    other[i] = word[i] == 'x' ? 'z' : 'x';
    if (i + 1 < word.size()) std::swap(swapped[i], swapped[i + 1]);
    for (const std::string& edit : {less, doubled, other, swapped}) {
      if (edit != word && !edit.empty()) edits.push_back(edit);
    }
  }
  return edits;
}

std::string answer(const std::string& path) {
  sample::ExperimentConfig record;
  const std::vector<std::string> overrides{"model.attention.kind=nystrom", path + "=1"};
  const std::vector<std::string> yoso{"model.attention.kind=yoso", path + "=1"};
  const std::string text = sample::minimal_text;
  std::string all;
  for (const auto& set : {overrides, yoso}) {
    try {
      config::load_text(record, text, "file.yaml", set);
    } catch (const Error& error) {
      all += std::string(error.what()) + "\n";
    }
  }
  return all;
}

TEST(Typos, every_single_edit_of_every_key_suggests_it) {
  const std::vector<std::string> keys = config::keys(sample::ExperimentConfig{});
  ASSERT_GT(keys.size(), 25u);
  int checked = 0;
  for (const std::string& key : keys) {
    const std::size_t dot = key.rfind('.');
    const std::string section = key.substr(0, dot + 1), name = key.substr(dot + 1);
    for (const std::string& typo : single_edits(name)) {
      if (std::ranges::find(keys, section + typo) != keys.end()) continue;
      const std::string message = answer(section + typo);
      const std::size_t asked = message.find(section + typo + " is not a known key; did you mean ");
      ASSERT_NE(asked, message.npos) << message;
      ++checked;
      bool is_named = false;
      for (std::size_t at = message.find("did you mean"); at != message.npos;
           at = message.find("did you mean", at + 1)) {
        const std::string question = message.substr(at, message.find('?', at) - at) + " ";
        is_named = is_named || question.find(" " + key + " ") != question.npos ||
                   question.find(" " + key + ",") != question.npos;
      }
      EXPECT_TRUE(is_named) << section + typo << "\n" << message;
    }
  }
  EXPECT_GT(checked, 700);
}

TEST(Typos, two_overrides_of_one_unknown_section_are_two_mistakes) {
  sample::ExperimentConfig record;
  const std::vector<std::string> overrides{"modle.heads=2", "modle.layers=3"};
  try {
    config::load_text(record, sample::minimal_text, "file.yaml", overrides);
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "--set modle.heads=2: modle.heads is not a known key; did you mean model.heads?\n"
                 "--set modle.layers=3: modle.layers is not a known key; did you mean model.layers?");
  }
}

TEST(Typos, distance_counts_edits_and_swaps) {
  EXPECT_EQ(config::edit_distance("", ""), 0);
  EXPECT_EQ(config::edit_distance("", "abc"), 3);
  EXPECT_EQ(config::edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(config::edit_distance("hashes", "hahses"), 1);
  EXPECT_EQ(config::edit_distance("ca", "abc"), 3);
  EXPECT_EQ(config::edit_distance("Learning-Rate", "learning_rate"), 0);
}

TEST(Typos, nearest_lists_ties_and_keeps_its_distance) {
  const std::vector<std::string> words{"heads", "hashes", "hash", "layers"};
  EXPECT_EQ(config::nearest("hashs", words, 2), (std::vector<std::string>{"hashes", "hash"}));
  EXPECT_EQ(config::nearest("layer", words, 2), (std::vector<std::string>{"layers"}));
  EXPECT_TRUE(config::nearest("optimizer", words, 3).empty());
  EXPECT_EQ(config::alternatives(words), "heads, hashes, hash or layers");
}

}  // namespace
}  // namespace tern
