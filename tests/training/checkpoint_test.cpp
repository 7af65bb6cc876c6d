#include "tern/checkpoint.h"

#include <random>
#include <set>

#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "support/tiny_run.h"
#include "training/parameter_file.h"

namespace tern {
namespace {

namespace fs = std::filesystem;
using test::mentions;
using test::read_bytes;
using test::TemporaryFolder;
using test::thrown_error;
using test::tiny_config;
using test::write_bytes;

const std::vector<std::string> all_files{"MANIFEST.json", "model.safetensors", "optimizer.safetensors",
                                         "state.json"};

/// Distinct values in every part of the state, a function of `seed`.
void scramble(Experiment& experiment, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  for (const Tensor& block :
       {experiment.store.values(), experiment.optimizer.first_moment(), experiment.optimizer.second_moment()}) {
    std::vector<double> values(static_cast<std::size_t>(block.count()));
    for (double& value : values) value = normal(engine);
    copy(from_vector(values, block.shape()), block);
  }
  experiment.state.set_updates(seed + 17);
}

Progress progress_at(std::int64_t step) {
  Progress progress;
  progress.step = step;
  progress.position = 16 * step;
  progress.skipped = 3;
  progress.skipped_in_a_row = 2;
  progress.best_step = step - 1;
  progress.best_accuracy = 0.1 + 1e-17 * static_cast<double>(step);
  progress.best_loss = 2.0 / 3;
  progress.evaluation_is_due = step % 2 == 1;
  progress.elapsed_seconds = 12.5;
  return progress;
}

/// The elements of all parameters in one of the flat blocks.
std::vector<float> packed(const Experiment& experiment, const Tensor& block) {
  return packed_on_host(experiment.store, block).to_vector<float>();
}

class CheckpointTest : public testing::Test {
 protected:
  TemporaryFolder temporary;
  Experiment experiment{tiny_config("nowhere", "softmax")};
  fs::path folder = temporary / "checkpoints";

  /// Scrambles the state by `step` and saves it; returns the fingerprint.
  std::string save(std::int64_t step, unsigned seed) {
    scramble(experiment, seed);
    save_checkpoint(folder, experiment, progress_at(step));
    return fingerprint(experiment, progress_at(step));
  }
  std::string resumed_fingerprint() {
    Experiment other(tiny_config("nowhere", "softmax"));
    const auto found = resume_newest(folder, other);
    return found ? fingerprint(other, *found) : "none";
  }
  int temporaries() const {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(folder))
      count += entry.path().filename().string().starts_with(".tmp-");
    return count;
  }
};

TEST_F(CheckpointTest, restores_everything) {
  const std::string saved = save(7, 1);
  Experiment other(tiny_config("nowhere", "softmax"));
  const auto found = resume_newest(folder, other);
  ASSERT_TRUE(found);
  EXPECT_EQ(packed(other, other.store.values()), packed(experiment, experiment.store.values()));
  EXPECT_EQ(packed(other, other.optimizer.first_moment()),
            packed(experiment, experiment.optimizer.first_moment()));
  EXPECT_EQ(packed(other, other.optimizer.second_moment()),
            packed(experiment, experiment.optimizer.second_moment()));
  EXPECT_EQ(other.state.read().updates, 18);
  EXPECT_EQ(other.state.read().step, 7u);
  const Progress expected = progress_at(7);
  EXPECT_EQ(found->step, 7);
  EXPECT_EQ(found->position, expected.position);
  EXPECT_EQ(found->skipped, 3);
  EXPECT_EQ(found->skipped_in_a_row, 2);
  EXPECT_EQ(found->best_step, 6);
  EXPECT_EQ(found->best_accuracy, expected.best_accuracy);
  EXPECT_EQ(found->best_loss, expected.best_loss);
  EXPECT_TRUE(found->evaluation_is_due);
  EXPECT_EQ(found->elapsed_seconds, 12.5);
  EXPECT_EQ(fingerprint(other, *found), saved);
}

TEST_F(CheckpointTest, the_fingerprint_sees_every_part) {
  scramble(experiment, 1);
  std::set<std::string> seen{fingerprint(experiment, progress_at(4))};
  for (const Tensor& block :
       {experiment.store.values(), experiment.optimizer.first_moment(), experiment.optimizer.second_moment()}) {
    const Tensor& last = experiment.store.parameters().front().master;  // of the flat block
    block.data<float>()[last.offset() - experiment.store.values().offset() + last.count() - 1] += 1;
    seen.insert(fingerprint(experiment, progress_at(4)));
  }
  experiment.state.set_updates(1);
  seen.insert(fingerprint(experiment, progress_at(4)));
  Progress moved = progress_at(4);
  ++moved.position;
  seen.insert(fingerprint(experiment, moved));
  EXPECT_EQ(seen.size(), 6u);
}

TEST_F(CheckpointTest, every_flipped_bit_is_found_and_named) {
  save(4, 1);
  const std::string older = resumed_fingerprint();
  save(8, 2);
  const fs::path newest = checkpoint_path(folder, 8);
  std::mt19937 engine(9);
  for (const std::string& name : all_files) {
    const std::string original = read_bytes(newest / name);
    for (int trial = 0; trial < 60; ++trial) {
      std::string flipped = original;
      const std::size_t bit = engine() % (8 * original.size());
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
      write_bytes(newest / name, flipped);
      const CheckpointStatus status = verify_checkpoint(newest);
      ASSERT_NE(status.fault, "") << name << " bit " << bit;
      // A flip in the manifest's numbers shows in the file that they describe.
      EXPECT_NE(status.fault.find(newest.string()), std::string::npos) << status.fault;
      EXPECT_TRUE(name == "MANIFEST.json" || status.fault.find(name) != std::string::npos) << status.fault;
      EXPECT_EQ(thrown_error([&] { load_checkpoint(newest, experiment); }).code(), ExitCode::bad_data);
      if (trial > 1) continue;
      EXPECT_EQ(resumed_fingerprint(), older) << "falls back";
      EXPECT_TRUE(fs::exists(newest.string() + ".corrupt"));
      fs::rename(newest.string() + ".corrupt", newest);
    }
    write_bytes(newest / name, original);
  }
  EXPECT_EQ(verify_checkpoint(newest).fault, "");
}

TEST_F(CheckpointTest, every_bit_of_the_manifest_before_its_hashes_counts) {
  save(8, 2);
  const fs::path manifest = checkpoint_path(folder, 8) / "MANIFEST.json";
  const std::string original = read_bytes(manifest);
  ASSERT_GT(original.size(), 100u);
  for (std::size_t bit = 0; bit < 8 * original.find("files"); ++bit) {
    std::string flipped = original;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    write_bytes(manifest, flipped);
    ASSERT_NE(verify_checkpoint(checkpoint_path(folder, 8)).fault, "") << "bit " << bit;
  }
}

TEST_F(CheckpointTest, truncated_missing_and_exchanged_files_are_found_and_named) {
  const std::string older = save(4, 1);
  save(8, 2);
  const fs::path newest = checkpoint_path(folder, 8);
  for (const std::string& name : all_files) {
    const std::string original = read_bytes(newest / name);
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9}, original.size() / 2,
          original.size() - 2, original.size() + 1}) {
      write_bytes(newest / name, (original + "x").substr(0, length));
      EXPECT_NE(verify_checkpoint(newest).fault.find(name), std::string::npos)
          << name << " of " << length << " bytes";
    }
    fs::remove(newest / name);
    EXPECT_NE(verify_checkpoint(newest).fault.find(name), std::string::npos) << name << " missing";
    EXPECT_EQ(resumed_fingerprint(), older);
    fs::rename(newest.string() + ".corrupt", newest);
    fs::copy_file(checkpoint_path(folder, 4) / name, newest / name);
    EXPECT_NE(verify_checkpoint(newest).fault, "") << name << " of another checkpoint";
    write_bytes(newest / name, original);
  }
  EXPECT_EQ(verify_checkpoint(newest).fault, "");
}

TEST_F(CheckpointTest, all_damaged_is_an_error_each_time_and_nothing_is_renamed) {
  for (const int step : {1, 2, 3}) {
    save(step, 5);
    write_bytes(checkpoint_path(folder, step) / "state.json", "{}");
  }
  for (int start = 0; start < 2; ++start) {  // the second start must not begin anew without a word
    const Error error = thrown_error([&] { resumed_fingerprint(); });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    for (const int step : {1, 2, 3})
      EXPECT_TRUE(mentions(error, checkpoint_path(folder, step).string())) << error.what();
  }
  EXPECT_EQ(list_checkpoints(folder).size(), 3u);
  EXPECT_EQ(resume_newest(temporary / "no-such-folder", experiment), std::nullopt);
}

TEST_F(CheckpointTest, at_most_three_damaged_ones_are_passed_over) {
  for (const int step : {1, 2, 3, 4, 5}) save(step, static_cast<unsigned>(step));
  for (const int step : {2, 3, 4, 5}) fs::remove(checkpoint_path(folder, step) / "MANIFEST.json");
  EXPECT_EQ(thrown_error([&] { resumed_fingerprint(); }).code(), ExitCode::bad_data);
  const std::string second = save(2, 2);
  EXPECT_EQ(resumed_fingerprint(), second);
  EXPECT_TRUE(fs::exists(checkpoint_path(folder, 5).string() + ".corrupt"));
}

TEST_F(CheckpointTest, another_model_is_a_clear_error) {
  save(3, 1);
  Experiment wider(tiny_config("nowhere", "softmax", {"model.hidden_width=20"}));
  Experiment deeper(tiny_config("nowhere", "softmax", {"model.layers=2"}));
  for (Experiment* other : {&wider, &deeper})
    for (const bool everything : {true, false}) {
      const Error error = thrown_error([&] {
        if (everything)
          resume_newest(folder, *other);
        else
          load_parameters(checkpoint_path(folder, 3), other->store);
      });
      EXPECT_EQ(error.code(), ExitCode::bad_data);
      EXPECT_TRUE(mentions(error, "the model differs")) << error.what();
    }
  EXPECT_EQ(thrown_error([&] { load_checkpoint(folder / "step-00000099", experiment); }).code(),
            ExitCode::missing_input);
}

TEST_F(CheckpointTest, a_damaged_checkpoint_gives_no_parameters) {
  save(3, 1);
  const fs::path file = checkpoint_path(folder, 3) / "model.safetensors";
  std::string bytes = read_bytes(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(file, bytes);
  EXPECT_EQ(thrown_error([&] { load_parameters(checkpoint_path(folder, 3), experiment.store); }).code(),
            ExitCode::bad_data);
  EXPECT_EQ(thrown_error([&] { average_checkpoints({checkpoint_path(folder, 3)}, temporary / "mean"); }).code(),
            ExitCode::bad_data);
  EXPECT_FALSE(fs::exists(temporary / "mean"));
}

TEST_F(CheckpointTest, the_average_is_the_mean_of_each_parameter) {
  std::vector<std::vector<float>> blocks;
  for (const int step : {1, 2, 3}) {
    save(step, static_cast<unsigned>(step));
    blocks.push_back(packed(experiment, experiment.store.values()));
  }
  average_checkpoints({checkpoint_path(folder, 1), checkpoint_path(folder, 2), checkpoint_path(folder, 3)},
                      temporary / "mean.safetensors");
  load_parameters(temporary / "mean.safetensors", experiment.store);
  const std::vector<float> mean = packed(experiment, experiment.store.values());
  ASSERT_FALSE(mean.empty());
  for (std::size_t i = 0; i < mean.size(); ++i)
    ASSERT_EQ(mean[i],
              static_cast<float>((double{blocks[0][i]} + double{blocks[1][i]} + double{blocks[2][i]}) / 3.0));
}

TEST_F(CheckpointTest, steps_of_nine_digits_are_found) {
  save(4'000'000'000, 1);
  const std::string last = save(99'999'999, 2);
  EXPECT_NE(resumed_fingerprint(), last);
  ASSERT_EQ(list_checkpoints(folder).size(), 2u);
  EXPECT_EQ(list_checkpoints(folder).back().step, 4'000'000'000);
}

/// rotate_checkpoints goes by names alone; so folders with those names suffice here.
TEST(rotation, keeps_the_best_and_the_newest_and_nothing_foreign_is_touched) {
  std::mt19937 engine(4);
  for (int trial = 0; trial < 150; ++trial) {
    const TemporaryFolder temporary;
    const fs::path folder = temporary.path();
    const std::set<std::string> foreign{"step-1", "step-0000000x", "step-00000002.corrupt", "best",
                                        "notes.txt"};
    for (const std::string& name : foreign) fs::create_directory(folder / name);
    const std::int64_t keep = 1 + engine() % 3, stride = engine() % 2 == 0 ? 100 : 9900;
    std::int64_t step = 9800, best = 0;
    std::set<std::int64_t> expected;
    for (int save = 0; save < 8; ++save) {
      step += stride;
      fs::create_directory(checkpoint_path(folder, step));
      write_bytes(checkpoint_path(folder, step) / "state.json", "{}");
      if (engine() % 2 == 0) fs::create_directory(folder / (".tmp-step-" + std::to_string(engine() % 9)));
      if (engine() % 3 == 0) best = step;
      rotate_checkpoints(folder, keep, best);
      expected.insert(step);
      while (static_cast<std::int64_t>(expected.size()) > keep + (best > 0 && *expected.begin() == best)) {
        const auto oldest = *expected.begin() == best ? std::next(expected.begin()) : expected.begin();
        expected.erase(oldest);
      }
      std::set<std::string> left, wanted = foreign;
      for (const auto& entry : fs::directory_iterator(folder)) left.insert(entry.path().filename().string());
      for (const std::int64_t kept : expected) wanted.insert(checkpoint_path(folder, kept).filename().string());
      ASSERT_EQ(left, wanted) << "trial " << trial << ", save " << save << ", keep " << keep << ", best "
                              << best;
    }
  }
}

TEST_F(CheckpointTest, newer_ones_are_set_aside_for_a_run_from_an_earlier_one) {
  for (const int step : {9900, 10000, 10100}) save(step, 1);
  set_newer_aside(folder, 9900);
  ASSERT_EQ(list_checkpoints(folder).size(), 1u);
  EXPECT_TRUE(fs::exists(folder / "step-00010100.abandoned" / "MANIFEST.json"));
  rotate_checkpoints(folder, 1, 0);
  EXPECT_TRUE(fs::exists(folder / "step-00009900"));
  EXPECT_TRUE(fs::exists(folder / "step-00010000.abandoned"));
}

}  // namespace
}  // namespace tern
