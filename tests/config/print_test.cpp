// The resolved dump, differences, keys and the generated reference.
#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/sample_records.h"

namespace tern {
namespace {

struct LoggingConfig {
  int every = 10;
  std::string label = "a b";
  void fields(Fields& f) {
    f("every", every, "steps between lines", at_least(1));
    f("label", label, "what to call it");
  }
};

struct SmallConfig {
  double rate = 1e-4;
  std::optional<int> bits;
  std::vector<std::string> names{"x", "null", ""};
  LoggingConfig logging;
  sample::SoftmaxConfig nothing;
  Choice attention{sample::attention_kinds(), "yoso"};
  void fields(Fields& f) {
    f("rate", rate, "a | b", positive());
    f("bits", bits, "code length");
    f("names", names, "names");
    f("logging", logging, "Logging").changeable();
    f("nothing", nothing, "Nothing");
    f("attention", attention, "Attention");
  }
};

TEST(Print, dump_is_this_text) {
  EXPECT_EQ(config::dump(SmallConfig{}), R"(rate: 1e-4
bits: null
names: [x, "null", ""]
logging:
  every: 10
  label: "a b"
nothing: {}
attention:
  kind: yoso
  hashes: 32
  bits: null
  hash: gaussian
  conv_window: 0
)");
}

TEST(Print, origins_stand_behind_the_values) {
  SmallConfig record;
  const std::vector<std::string> overrides{"attention.kind=nystrom", "bits=3"};
  const config::Origins origins =
      config::load_text(record, "logging:\n  every: 5\nrate: 3\n", "a.yaml", overrides);
  EXPECT_EQ(config::dump_with_origin(record, origins), R"(rate: 3  # a.yaml:3
bits: 3  # --set bits=3
names: [x, "null", ""]  # default
logging:
  every: 5  # a.yaml:2
  label: "a b"  # default
nothing: {}
attention:
  kind: nystrom  # --set attention.kind=nystrom
  landmarks: 64  # default
  inverse_steps: 6  # default
  conv_window: 0  # default
)");
}

TEST(Print, diff_names_keys_values_and_what_may_change) {
  SmallConfig before, after;
  EXPECT_TRUE(config::diff(before, after).empty());
  after.rate = 2;
  after.logging.every = 11;
  after.bits = 4;
  const auto differences = config::diff(before, after);
  ASSERT_EQ(differences.size(), 3u);
  EXPECT_EQ(differences[0].key, "rate");
  EXPECT_EQ(differences[0].before, "1e-4");
  EXPECT_EQ(differences[0].after, "2");
  EXPECT_FALSE(differences[0].changeable);
  EXPECT_EQ(differences[1].key, "bits");
  EXPECT_EQ(differences[1].before, "null");
  EXPECT_EQ(differences[2].key, "logging.every");
  EXPECT_TRUE(differences[2].changeable) << "the mark on a section covers what is inside";
}

TEST(Print, diff_of_kinds_lists_keys_of_both) {
  SmallConfig before, after;
  after.attention.select("nystrom");
  std::vector<std::string> seen;
  for (const config::Difference& difference : config::diff(before, after)) {
    seen.push_back(difference.key + " " + difference.before.value_or("-") + " " +
                   difference.after.value_or("-"));
  }
  EXPECT_EQ(seen, (std::vector<std::string>{"attention.kind yoso nystrom", "attention.hashes 32 -",
                                            "attention.bits null -", "attention.hash gaussian -",
                                            "attention.landmarks - 64", "attention.inverse_steps - 6"}));
}

TEST(Print, changeable_fields_of_the_sample) {
  sample::ExperimentConfig before, after;
  after.training.steps = 9;
  after.model.layers = 9;
  const auto differences = config::diff(before, after);
  ASSERT_EQ(differences.size(), 2u);
  EXPECT_FALSE(differences[0].changeable);
  EXPECT_TRUE(differences[1].changeable);
}

TEST(Print, keys_cover_every_kind_once) {
  EXPECT_EQ(
      config::keys(SmallConfig{}),
      (std::vector<std::string>{"rate", "bits", "names", "logging.every", "logging.label", "attention.kind",
                                "attention.hashes", "attention.bits", "attention.hash", "attention.conv_window",
                                "attention.landmarks", "attention.inverse_steps"}));
}

TEST(Print, reference_has_a_row_for_every_key) {
  const std::string text = config::reference_markdown(sample::ExperimentConfig{}, "Configuration");
  EXPECT_TRUE(text.starts_with("# Configuration\n"));
  for (const std::string& key : config::keys(sample::ExperimentConfig{})) {
    const bool is_kind = key.ends_with(".kind");
    EXPECT_NE(text.find(is_kind ? "`" + key + "` selects" : "| `" + key + "` |"), text.npos) << key;
  }
  for (const std::string row :
       {"| `run.name` | text | `first` | not empty | name \\| label of the run |",
        "| `model.dropout` | number | `0.1` | at least 0 and below 1 | share of values dropped |",
        "| `training.steps` | integer | `5000` | at least 1 | optimizer steps; may differ on resume |",
        "| `training.clip` | number, or null | `null` | positive | largest gradient norm; null = off |",
        "| `task.folder` | path | must be set | not empty | prepared data |", "- `yoso`: sampled by hashing",
        "### `model.attention`, kind `nystrom`", "(default: must be set)", "(default: `softmax`)"}) {
    EXPECT_NE(text.find(row), text.npos) << row;
  }
}

TEST(Print, a_record_that_lists_a_key_twice_is_our_bug) {
  struct Twice {
    int a = 1, b = 2;
    void fields(Fields& f) {
      f("a", a, "one");
      f("a", b, "two");
    }
  };
  try {
    config::dump(Twice{});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::internal);
  }
}

}  // namespace
}  // namespace tern
