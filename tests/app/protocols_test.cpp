// The configurations of Long Range Arena against what the publications and their programs state, and a few
// steps of each task on tiny data that come in the published forms.
#include <cmath>

#include <gtest/gtest.h>

#include "app/command.h"
#include "app/published_data.h"
#include "io/archive.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/experiment.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

ExperimentConfig loaded(const std::string& name, const std::vector<std::string>& overrides = {}) {
  ExperimentConfig config;
  config::load(config, config_file(name), overrides);
  return config;
}

/// Parameters that `tern describe` counts, with a mechanism's file on top.
std::int64_t parameters_of(const std::string& task, const std::string& attention) {
  const TemporaryFolder folder;
  write_bytes(folder / "both.yaml", "base: [" + config_file(task) + ", " + config_file(attention) + "]\n");
  const Outcome outcome = tern_command({"describe", folder / "both.yaml", "--json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return io::parse_json(outcome.out, "output")["parameter_count"].get<std::int64_t>();
}

struct Published {
  std::string task;
  std::int64_t parameters, padded, batch, steps, warmup, every, batches;
  int bits;  ///< of YOSO
};
// mlpen/YOSO and mlpen/Nystromformer, the LRA configurations; parameters counted from their models
const std::vector<Published> protocol_b{
    {"listops", 209802, 2048, 32, 5000, 1000, 50, 62, 11},
    {"text", 370562, 4096, 32, 20000, 8000, 500, 781, 12},
    {"retrieval", 395138, 4096, 32, 30000, 800, 300, 565, 12},
    {"image", 174986, 1024, 256, 35000, 175, 175, 20, 10},
    {"pathfinder32", 173954, 1024, 256, 62400, 312, 312, 312, 10},
};

TEST(ProtocolB, ParametersAreThePublishedOnes) {
  for (const Published& published : protocol_b) {
    const std::string file = "lra/" + published.task + ".yaml";
    for (const char* attention : {"attention/softmax.yaml", "attention/yoso.yaml", "attention/none.yaml"})
      EXPECT_EQ(parameters_of(file, attention), published.parameters) << published.task << " " << attention;
    // 16 hashes and a window of 33 for each of 2 heads in 2 layers
    EXPECT_EQ(parameters_of(file, "attention/yoso_convolution.yaml"), published.parameters + 2 * 2 * 33);
    EXPECT_EQ(parameters_of(file, "attention/nystrom.yaml"), published.parameters + 2 * 2 * 35);
  }
}

TEST(ProtocolB, LengthsBatchesAndSchedulesAreThePublishedOnes) {
  for (const Published& published : protocol_b) {
    SCOPED_TRACE(published.task);
    const ExperimentConfig config = loaded("lra/" + published.task + ".yaml");
    const TaskInterface task = make_task(config.task).interface;
    EXPECT_EQ(task.padded_length, published.padded);
    EXPECT_EQ(1 << published.bits, published.padded)
        << "so that YOSO's default of ceil(log2 length) bits is it";
    EXPECT_TRUE(make_task(config.task).mask_zero);
    EXPECT_EQ(config.training.batch_size, published.batch);
    EXPECT_EQ(config.training.steps, published.steps);
    EXPECT_EQ(config.training.evaluate_every, published.every);
    EXPECT_EQ(config.training.evaluate_batches, published.batches);
    EXPECT_EQ(config.model.pooling, Pooling::padded_mean);
    EXPECT_EQ(config.optimizer.clip_norm + config.optimizer.weight_decay, 0);
    const auto schedule = make_schedule(config.schedule);
    const auto warmup = published.warmup;
    const ScheduleValue first = schedule->at(0, published.steps),
                        peak = schedule->at(warmup - 1, published.steps),
                        last = schedule->at(published.steps - 1, published.steps);
    EXPECT_NEAR(first.rate, 1 / 25.0, 1e-9);
    EXPECT_NEAR(peak.rate, 1, 1e-9);
    EXPECT_NEAR(last.rate, 1 / 25e4, 1e-9);
    EXPECT_NEAR(first.beta1.value(), 0.95, 1e-9);
    EXPECT_NEAR(peak.beta1.value(), 0.85, 1e-9);
  }
}

TEST(ProtocolA, RatesFollowThePublishedFormula) {
  for (const auto& [file, warmup] :
       {std::pair("listops", 1000.0), std::pair("text", 8000.0), std::pair("retrieval", 8000.0)}) {
    const ExperimentConfig config = loaded("lra/original/" + std::string(file) + "_original.yaml");
    const auto schedule = make_schedule(config.schedule);
    for (const std::int64_t step : {1, 500, 1000, 4999}) {
      const auto s = static_cast<double>(step);
      const double published = 0.05 * std::min(1.0, s / warmup) / std::sqrt(std::max(s, warmup));
      EXPECT_NEAR(config.optimizer.learning_rate * schedule->at(step - 1, config.training.steps).rate,
                  published, 1e-6 * published)
          << file << " step " << step;
    }
  }
}

/// Sizes of the original configurations: projections without biases, one classifier layer, for a pair two.
struct Original {
  std::int64_t vocabulary, positions, width, inner, hidden, layers, classes;
  bool is_pair = false;

  std::int64_t parameters() const {
    const std::int64_t layer = 4 * width * inner + 2 * width * hidden + hidden + width + 4 * width;
    const std::int64_t head = (is_pair ? 2 : 1) * width * hidden + hidden;
    const std::int64_t second = is_pair ? hidden * hidden / 2 + hidden / 2 : 0;
    const std::int64_t output = (is_pair ? hidden / 2 : hidden) * classes + classes;
    return (vocabulary + positions) * width + layers * layer + 2 * width + head + second + output;
  }
};

TEST(ProtocolA, SizesAreThoseOfTheOriginalConfigurations) {
  for (const auto& [task, original] : std::initializer_list<std::pair<std::string, Original>>{
           {"listops", {16, 0, 512, 512, 1024, 4, 10}},
           {"text", {257, 0, 256, 256, 1024, 4, 2}},
           {"retrieval", {257, 0, 128, 128, 512, 4, 2, true}},
           {"image", {256, 1024, 128, 64, 128, 1, 10}},
           {"pathfinder32", {256, 0, 32, 16, 32, 4, 2}},
           {"path_x", {256, 16384, 32, 16, 32, 1, 2}}})
    EXPECT_EQ(parameters_of("lra/original/" + task + "_original.yaml", "attention/softmax.yaml"),
              original.parameters())
        << task;
}

/// Data of each task in their published form, and two steps of the published model on them.
class Smoke : public testing::Test {
 protected:
  void SetUp() override { write_published_data(folder_.path()); }
  void prepare(const std::string& task, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"data", "prepare", task, "--out", (folder_ / "data").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = tern_command(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }
  void train(const std::string& file, const std::string& attention) {
    write_bytes(folder_ / "run.yaml", "base: [" + config_file(file) + ", " + config_file(attention) + "]\n");
    std::vector<std::string> arguments{"train", folder_ / "run.yaml", "--out", folder_ / "run"};
    for (const std::string& override :
         {"task.data=" + (folder_ / "data").string(), std::string("run.device=cpu"),
          std::string("training.steps=2"), std::string("training.batch_size=2"),
          std::string("training.evaluate_every=1"), std::string("training.evaluate_batches=1"),
          std::string("schedule.warmup=1")})
      arguments.insert(arguments.end(), {"--set", override});
    const Outcome outcome = tern_command(arguments);
    EXPECT_EQ(outcome.code, 0) << file << " " << attention << "\n" << outcome.err;
    EXPECT_TRUE(holds(outcome.out, "test accuracy  ")) << outcome.out;
    fs::remove_all(folder_ / "run");
  }
  void train_all(const std::string& file) {
    for (const char* attention : {"attention/softmax.yaml", "attention/yoso.yaml"}) train(file, attention);
    fs::remove_all(folder_ / "data");
  }
  TemporaryFolder folder_;
};

TEST_F(Smoke, ListopsAndPathfinderFromTheirGenerators) {
  prepare("listops", {"--train", "8", "--dev", "4", "--test", "4"});
  train_all("lra/listops.yaml");
  prepare("pathfinder", {"--count", "20"});
  train_all("lra/pathfinder32.yaml");
}

TEST_F(Smoke, TextAndItsOriginalProtocol) {
  prepare("text", {"--from", folder_ / "aclImdb"});
  train("lra/original/text_original.yaml", "attention/softmax.yaml");
  train_all("lra/text.yaml");
}

TEST_F(Smoke, RetrievalAndImageFromArchives) {
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  prepare("retrieval", {"--from", folder_ / "lra_release.gz"});
  train_all("lra/retrieval.yaml");
  prepare("image", {"--from", folder_ / "cifar-10-binary.tar.gz"});
  train_all("lra/image.yaml");
}

TEST_F(Smoke, PathX) {
  prepare("pathfinder", {"--size", "128", "--count", "10"});
  train("lra/path_x.yaml", "attention/yoso.yaml");
}

}  // namespace
}  // namespace tern::test
