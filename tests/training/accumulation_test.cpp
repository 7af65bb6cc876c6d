// A batch gives the same gradients in whatever parts it is computed.
#include <gtest/gtest.h>

#include "data/record_file.h"
#include "support/temporary_folder.h"
#include "support/tiny_run.h"
#include "support/tolerance.h"

namespace tern {
namespace {

using test::difference;
using test::TemporaryFolder;
using test::tiny_config;

/// Records of 0 to 40 present ids; every eighth has none at all.
void write_split(const std::filesystem::path& path, std::int64_t records) {
  data::RecordHeader header;
  header.task = "listops";
  header.split = path.stem().string();
  header.vocabulary = 16;
  header.classes = 10;
  header.padded_length = 48;
  data::RecordWriter writer(path, header);
  std::uint64_t state = 5;
  const auto next = [&](std::uint64_t count) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % count;
  };
  for (std::int64_t r = 0; r < records; ++r) {
    std::vector<std::uint8_t> ids(r % 8 == 3 ? 4 : 1 + next(40));
    for (auto& id : ids) id = static_cast<std::uint8_t>(r % 8 == 3 ? 0 : 1 + next(15));
    writer.append(ids, static_cast<std::int32_t>(next(10)));
  }
  writer.finish();
}

struct Outcome {
  std::vector<double> gradient, parameters;
  std::vector<std::string> rows;
};

Outcome two_steps(const std::filesystem::path& data, const std::string& attention, int accumulate,
                  const std::filesystem::path& folder) {
  const ExperimentConfig config = tiny_config(
      data, attention,
      {"training.batch_size=32", "training.accumulate=" + std::to_string(accumulate), "model.dropout=0.2"});
  Experiment experiment(config, DType::float64);
  const auto communicator = solo_communicator();
  RunOptions options;
  options.folder = folder;
  Trainer trainer(experiment, *communicator, options);
  trainer.step();
  Outcome outcome;
  outcome.gradient = experiment.store.gradients().to_vector<double>();
  trainer.step();
  outcome.parameters = experiment.store.values().to_vector<double>();
  outcome.rows = test::metrics_rows(folder / "metrics.jsonl");
  return outcome;
}

void check_accumulation(const std::string& attention) {
  const TemporaryFolder folder;
  for (const char* split : {"train.records", "dev.records", "test.records"}) write_split(folder / split, 40);
  const Outcome whole = two_steps(folder.path(), attention, 1, folder / "whole");
  double size = 0;
  for (const double g : whole.gradient) size = std::max(size, std::abs(g));
  EXPECT_GT(size, 1e-3) << "there must be something to compare";
  ASSERT_EQ(whole.rows.size(), 2u);
  for (const int parts : {4, 32}) {
    const Outcome split = two_steps(folder.path(), attention, parts, folder / ("in-" + std::to_string(parts)));
    EXPECT_EQ(difference(split.gradient, whole.gradient, 1e-12), "") << attention << " in " << parts;
    EXPECT_EQ(difference(split.parameters, whole.parameters, 1e-9), "") << attention << " in " << parts;
    ASSERT_EQ(split.rows.size(), 2u);
    for (std::size_t row = 0; row < 2; ++row) {
      const io::Json a = io::parse_json(split.rows[row], "split"), b = io::parse_json(whole.rows[row], "whole");
      EXPECT_NEAR(a["loss"].get<double>(), b["loss"].get<double>(), 1e-12);
      EXPECT_EQ(a["accuracy"], b["accuracy"]);
      EXPECT_EQ(a["tokens"], b["tokens"]);
    }
  }
}

TEST(accumulation, softmax_with_dropout_is_the_same_in_parts) { check_accumulation("softmax"); }
TEST(accumulation, yoso_with_sampling_is_the_same_in_parts) { check_accumulation("yoso"); }
TEST(accumulation, routing_by_moving_centroids_is_the_same_in_parts) { check_accumulation("routing"); }

}  // namespace
}  // namespace tern
