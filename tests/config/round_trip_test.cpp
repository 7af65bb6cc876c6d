// What dump writes, load reads back: bit for bit, for random records.
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/sample_records.h"
#include "tern/random.h"

namespace tern {
namespace {

class Draws {
 public:
  explicit Draws(std::uint32_t record) : record_(record) {}
  std::uint64_t bits() {
    const PhiloxWords words = philox({{next_++, record_, 0, 0}}, {11, 5});
    return std::uint64_t{words.word[0]} << 32 | words.word[1];
  }
  int up_to(int highest) { return static_cast<int>(bits() % static_cast<std::uint64_t>(highest + 1)); }
  bool coin() { return up_to(1) == 1; }
  double finite() {
    while (true) {
      const double value = std::bit_cast<double>(bits());
      if (std::isfinite(value)) return value;
    }
  }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  std::string text() {
    static const std::vector<std::string> pieces{"a",           "Z",        "0",
                                                 "9",           " ",        "  ",
                                                 ":",           ": ",       "#",
                                                 " #",          "'",        "\"",
                                                 "\\",          "\n",       "\t",
                                                 "\r",          "{",        "}",
                                                 "[",           "]",        ",",
                                                 "&",           "*",        "!",
                                                 "|",           ">",        "%",
                                                 "@",           "`",        "-",
                                                 "- ",          "?",        "~",
                                                 "é",           "日",       "𝄞",
                                                 "null",        "true",     "yes",
                                                 "010",         "1e3",      "\x01",
                                                 "\x1b",        "\x7f",     "...",
                                                 "---",         "<<",       "=",
                                                 "\xc2\xa0",    "\xc2\x85", "\xe2\x80\xa8",
                                                 "\xef\xbb\xbf"};
    std::string out;
    for (int i = up_to(6); i > 0; --i) out += pieces[bits() % pieces.size()];
    return out;
  }
  std::filesystem::path path() { return "/base/" + std::to_string(bits()) + (coin() ? " x: #" : "") + "é"; }

 private:
  std::uint32_t record_, next_ = 0;
};

sample::ExperimentConfig random_record(std::uint32_t number) {
  Draws draw(number);
  sample::ExperimentConfig record;
  record.run.name = "n" + draw.text();
  record.run.seed = draw.bits();
  record.run.folder = draw.coin() ? draw.path() : std::filesystem::path();
  record.run.check_finite = draw.coin();
  for (int i = draw.up_to(3); i > 0; --i) record.run.notes.push_back(draw.text());
  for (int i = draw.up_to(3); i > 0; --i) record.run.switches.push_back(draw.coin());
  record.model.layers = 1 + draw.up_to(1 << 30);
  record.model.heads = 1 + draw.up_to(10);
  record.model.hidden_width = record.model.heads * (1 + draw.up_to(100));
  record.model.dropout = draw.unit();
  for (int i = draw.up_to(3); i > 0; --i) {
    record.model.families.push_back(static_cast<sample::HashFamily>(draw.up_to(2)));
  }
  record.model.attention.select(sample::attention_kinds()[static_cast<std::size_t>(draw.up_to(2))].name);
  if (record.model.attention.kind() == "yoso") {
    auto& yoso = record.model.attention.as<sample::YosoConfig>();
    yoso.hashes = 1 + draw.up_to(1000);
    if (draw.coin()) yoso.bits = 1 + draw.up_to(19);
    yoso.hash = static_cast<sample::HashFamily>(draw.up_to(2));
    yoso.conv_window = draw.coin() ? 0 : 2 * draw.up_to(50) + 1;
  }
  record.training.steps = 1 + static_cast<std::int64_t>(draw.bits() >> 2);
  record.training.learning_rate = std::abs(draw.finite());
  if (record.training.learning_rate == 0)
    record.training.learning_rate = std::numeric_limits<double>::denorm_min();
  record.training.betas = {draw.unit(), draw.unit()};
  for (int i = draw.up_to(3); i > 0; --i) {
    record.training.milestones.push_back(std::bit_cast<std::int64_t>(draw.bits()));
  }
  if (draw.coin()) record.training.clip = draw.unit() + 1e-300;
  for (int i = draw.up_to(2); i > 0; --i) record.training.inputs.push_back(draw.path());
  record.task.select("listops");
  record.task.as<sample::ListOpsConfig>().folder = draw.path();
  return record;
}

void expect_same(const sample::ExperimentConfig& a, const sample::ExperimentConfig& b) {
  EXPECT_EQ(a.run.name, b.run.name);
  EXPECT_EQ(a.run.seed, b.run.seed);
  EXPECT_EQ(a.run.folder, b.run.folder);
  EXPECT_EQ(a.run.check_finite, b.run.check_finite);
  EXPECT_EQ(a.run.notes, b.run.notes);
  EXPECT_EQ(a.run.switches, b.run.switches);
  EXPECT_EQ(a.model.layers, b.model.layers);
  EXPECT_EQ(a.model.heads, b.model.heads);
  EXPECT_EQ(a.model.hidden_width, b.model.hidden_width);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(a.model.dropout), std::bit_cast<std::uint64_t>(b.model.dropout));
  EXPECT_EQ(a.model.families, b.model.families);
  EXPECT_EQ(a.training.steps, b.training.steps);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(a.training.learning_rate),
            std::bit_cast<std::uint64_t>(b.training.learning_rate));
  EXPECT_EQ(a.training.betas, b.training.betas);
  EXPECT_EQ(a.training.milestones, b.training.milestones);
  EXPECT_EQ(a.training.clip, b.training.clip);
  EXPECT_EQ(a.training.inputs, b.training.inputs);
  EXPECT_EQ(a.task.as<sample::ListOpsConfig>().folder, b.task.as<sample::ListOpsConfig>().folder);
  ASSERT_EQ(a.model.attention.kind(), b.model.attention.kind());
  if (a.model.attention.kind() != "yoso") return;
  const auto& first = a.model.attention.as<sample::YosoConfig>();
  const auto& second = b.model.attention.as<sample::YosoConfig>();
  EXPECT_EQ(first.hashes, second.hashes);
  EXPECT_EQ(first.bits, second.bits);
  EXPECT_EQ(first.hash, second.hash);
  EXPECT_EQ(first.conv_window, second.conv_window);
}

TEST(RoundTrip, five_hundred_random_records) {
  for (std::uint32_t number = 0; number < 500; ++number) {
    const sample::ExperimentConfig record = random_record(number);
    const std::string text = config::dump(record);
    sample::ExperimentConfig loaded;
    ASSERT_NO_THROW(config::load_text(loaded, text, "file.yaml")) << text;
    expect_same(record, loaded);
    ASSERT_FALSE(HasFailure()) << "record " << number << "\n" << text;
    EXPECT_EQ(config::dump(loaded), text);
    EXPECT_TRUE(config::diff(record, loaded).empty());
    const config::Origins origins = config::load_text(loaded, text, "file.yaml");
    sample::ExperimentConfig annotated;
    ASSERT_NO_THROW(config::load_text(annotated, config::dump_with_origin(loaded, origins), "file.yaml"));
    EXPECT_EQ(config::dump(annotated), text);
  }
}

TEST(RoundTrip, extreme_numbers) {
  sample::ExperimentConfig record;
  record.task.select("listops");
  record.task.as<sample::ListOpsConfig>().folder = "/data";
  record.run.seed = std::numeric_limits<std::uint64_t>::max();
  record.training.steps = std::numeric_limits<std::int64_t>::max();
  record.training.milestones = {std::numeric_limits<std::int64_t>::min(), 0, -1};
  for (const double rate :
       {std::numeric_limits<double>::max(), std::numeric_limits<double>::min(),
        std::numeric_limits<double>::denorm_min(), 0.1, 1.0 / 3, 1e-4, 1e22, 123456789012345680.0}) {
    record.training.learning_rate = rate;
    record.model.dropout = -0.0;
    sample::ExperimentConfig loaded;
    config::load_text(loaded, config::dump(record), "file.yaml");
    EXPECT_EQ(loaded.training.learning_rate, rate);
    EXPECT_TRUE(std::signbit(loaded.model.dropout));
    EXPECT_EQ(loaded.run.seed, record.run.seed);
    EXPECT_EQ(loaded.training.steps, record.training.steps);
    EXPECT_EQ(loaded.training.milestones, record.training.milestones);
  }
}

}  // namespace
}  // namespace tern
