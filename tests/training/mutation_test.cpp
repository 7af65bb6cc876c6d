// Checkpoints that are damaged, and checkpoints that a forger gave sums that fit: continued, or refused.
#include "support/mutation.h"

#include <gtest/gtest.h>

#include "io/hash.h"
#include "support/tiny_run.h"
#include "tern/checkpoint.h"
#include "tern/logging.h"
#include "training/parameter_file.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> file_names{"model.safetensors", "optimizer.safetensors", "state.json"};

class ManifestMutation : public testing::Test {
 protected:
  TemporaryFolder folder;
  Experiment experiment{tiny_config("nowhere", "softmax")};
  fs::path checkpoint;

  void SetUp() override {
    logging::set_level(logging::Level::error);
    Progress progress;
    progress.step = 4;
    progress.position = 64;
    checkpoint = save_checkpoint(folder.path(), experiment, progress);
  }
  void TearDown() override { logging::set_level(logging::Level::info); }

  /// Makes the manifest's sizes and sums those of the files.
  void sign() const {
    io::Json manifest = io::parse_json(read_bytes(checkpoint / "MANIFEST.json"), "manifest");
    for (io::Json& file : manifest["files"]) {
      const fs::path path = checkpoint / file["name"].get<std::string>();
      file["size"] = fs::file_size(path);
      file["xxh3_128"] = io::to_hex(io::hash_of_file(path));
    }
    write_bytes(checkpoint / "MANIFEST.json", io::dump_json(manifest, 2));
  }
  Fed feed_file(const std::string& name, Variation variation, int count, bool is_signed) {
    return feed(read_bytes(checkpoint / name), variation, count, {ExitCode::bad_data},
                [&](const std::string& bytes) {
                  write_bytes(checkpoint / name, bytes);
                  if (is_signed) sign();
                  const Progress progress = load_checkpoint(checkpoint, experiment);
                  EXPECT_EQ(progress.step, 4);
                });
  }
};

class CheckpointMutation : public ManifestMutation, public testing::WithParamInterface<std::string> {};

TEST_P(CheckpointMutation, damage_is_always_found) {
  EXPECT_EQ(feed_file(GetParam(), Variation::bytes, 60, false).accepted, 0);
}

TEST_P(CheckpointMutation, forged_files_are_continued_or_refused) {
  feed_file(GetParam(), GetParam() == "state.json" ? Variation::json : Variation::bytes, 60, true);
}

INSTANTIATE_TEST_SUITE_P(, CheckpointMutation, testing::ValuesIn(file_names),
                         [](const auto& info) { return info.param.substr(0, info.param.find('.')); });

TEST_F(ManifestMutation, changed_manifests_are_read_or_refused) {
  const std::string sound = read_bytes(checkpoint / "MANIFEST.json");
  for (const Variation variation : {Variation::bytes, Variation::json}) {
    write_bytes(checkpoint / "MANIFEST.json", sound);
    feed_file("MANIFEST.json", variation, 100, false);
  }
}

TEST_F(ManifestMutation, parameters_of_any_origin_are_read_or_refused) {
  const fs::path file = checkpoint / "model.safetensors";
  feed(read_bytes(file), Variation::bytes, 60, {ExitCode::bad_data}, [&](const std::string& bytes) {
    write_bytes(folder / "x.safetensors", bytes);
    load_parameters(folder / "x.safetensors", experiment.store);
  });
}

}  // namespace
}  // namespace tern::test
