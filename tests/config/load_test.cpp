// Good configurations: scalar forms, base files, overrides, paths, choices, origins.
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "config/sample_records.h"

namespace tern {
namespace {

using sample::ExperimentConfig;
const std::string task = sample::minimal_text;

ExperimentConfig loaded(const std::string& text, const std::vector<std::string>& overrides = {}) {
  ExperimentConfig record;
  config::load_text(record, text, "file.yaml", overrides);
  return record;
}

/// A folder that goes away with the test.
class ConfigFiles : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              ("tern-config-" + std::to_string(getpid()) + "-" + test->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& name, const std::string& text) {
    const auto file = folder_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
    return file;
  }
  /// Code and message of the Error that loading throws.
  std::pair<ExitCode, std::string> failure(const std::filesystem::path& file) {
    ExperimentConfig record;
    try {
      config::load(record, file);
    } catch (const Error& error) {
      return {error.code(), error.what()};
    }
    return {ExitCode::done, ""};
  }
  std::filesystem::path folder_;
};

TEST(Load, scalar_forms) {
  const ExperimentConfig record = loaded(task + R"(run:
  name: 2024
  seed: 18446744073709551615
  check_finite: true
  notes: [yes, "quoted: #", 'single', 010]
  switches: [true, false]
model:
  layers: +3
  dropout: .5
  families: [hadamard, gaussian]
training:
  steps: 5000
  learning_rate: 1E-4
  betas:
    - 0.5
    - 1
  clip: ~
)");
  EXPECT_EQ(record.run.name, "2024");
  EXPECT_EQ(record.run.seed, 18446744073709551615u);
  EXPECT_TRUE(record.run.check_finite);
  EXPECT_EQ(record.run.notes, (std::vector<std::string>{"yes", "quoted: #", "single", "010"}));
  EXPECT_EQ(record.run.switches, (std::vector<bool>{true, false}));
  EXPECT_EQ(record.model.layers, 3);
  EXPECT_EQ(record.model.dropout, 0.5);
  EXPECT_EQ(record.model.families,
            (std::vector<sample::HashFamily>{sample::HashFamily::hadamard, sample::HashFamily::gaussian}));
  EXPECT_EQ(record.training.learning_rate, 1e-4);
  EXPECT_EQ(record.training.betas, (std::vector<double>{0.5, 1}));
  EXPECT_EQ(record.training.clip, std::nullopt);
}

TEST(Load, byte_order_mark_line_ends_and_empty_sections) {
  EXPECT_EQ(loaded("\xEF\xBB\xBF"
                   "task: {kind: listops, folder: /d}\r\nmodel:\r\n  layers: 5\r\nrun:\r\n")
                .model.layers,
            5);
  EXPECT_EQ(loaded("%YAML 1.2\n---\n" + task + "model: {layers: 5} # end").model.layers, 5);
}

TEST(Load, aliases_are_values) {
  const ExperimentConfig record = loaded(task + "run: {seed: &n 7}\nmodel: {layers: *n}\n");
  EXPECT_EQ(record.model.layers, 7);
}

TEST(Load, overrides_apply_in_order_and_by_type) {
  const ExperimentConfig record = loaded(
      task + "model: {layers: 5}\n", {"model.layers=6", "model.layers=7", "training.betas=[0.1, 0.2]",
                                      "run.name=007", "run.notes=[]", "training.clip=1", "training.clip=null"});
  EXPECT_EQ(record.model.layers, 7);
  EXPECT_EQ(record.training.betas, (std::vector<double>{0.1, 0.2}));
  EXPECT_EQ(record.run.name, "007");
  EXPECT_EQ(record.training.clip, std::nullopt);
}

TEST(Load, constraints_hold_at_their_edges) {
  EXPECT_EQ(loaded(task + "model: {layers: 1, dropout: 0}\n").model.dropout, 0);
  EXPECT_EQ(loaded(task + "model: {dropout: 0.9999999999999999}\n").model.dropout, 0.9999999999999999);
  EXPECT_EQ(loaded(task + "training: {betas: [0, 1]}\n").training.betas.size(), 2u);
  EXPECT_TRUE(at_least(0.5).holds(Scalar(0.5)));
  EXPECT_FALSE(above(0.5).holds(Scalar(0.5)));
  EXPECT_TRUE(at_most(3).holds(Scalar(std::int64_t{3})));
  EXPECT_FALSE(at_most(9223372036854775808.0).holds(Scalar(std::uint64_t{9223372036854775809u})));
  EXPECT_TRUE(odd_or_zero().holds(Scalar(std::int64_t{-3})));
  EXPECT_FALSE(odd_or_zero().holds(Scalar(2.0)));
  EXPECT_FALSE(odd_or_zero().holds(Scalar(2.5)));
  EXPECT_TRUE(one_of({1, 2.5}).holds(Scalar(2.5)));
  EXPECT_FALSE(one_of({1, 2.5}).holds(Scalar(std::int64_t{2})));
}

TEST(Load, choice_holds_its_kind) {
  const ExperimentConfig record = loaded(task + "model: {attention: {hashes: 8, kind: yoso, bits: 9}}\n");
  EXPECT_EQ(record.model.attention.kind(), "yoso");
  EXPECT_EQ(record.model.attention.as<sample::YosoConfig>().hashes, 8);
  EXPECT_EQ(record.model.attention.as<sample::YosoConfig>().bits, 9);
  EXPECT_THROW(record.model.attention.as<sample::NystromConfig>(), Error);
}

TEST(Load, choice_copies_are_independent) {
  Choice first(sample::attention_kinds(), "yoso");
  Choice second = first;
  second.as<sample::YosoConfig>().hashes = 5;
  EXPECT_EQ(first.as<sample::YosoConfig>().hashes, 32);
  first = second;
  EXPECT_EQ(first.as<sample::YosoConfig>().hashes, 5);
  EXPECT_THROW(first.select("yosso"), Error);
  EXPECT_EQ(first.kind(), "yoso");
}

TEST(Load, a_later_kind_drops_what_earlier_sources_set) {
  const std::string nystrom = task + "model: {attention: {kind: nystrom, landmarks: 8, conv_window: 5}}\n";
  const ExperimentConfig switched = loaded(nystrom, {"model.attention.hashes=4", "model.attention.kind=yoso"});
  EXPECT_EQ(switched.model.attention.as<sample::YosoConfig>().hashes, 4);
  EXPECT_EQ(switched.model.attention.as<sample::YosoConfig>().conv_window, 0) << "shared keys must not leak";
  const ExperimentConfig same = loaded(nystrom, {"model.attention.kind=nystrom"});
  EXPECT_EQ(same.model.attention.as<sample::NystromConfig>().landmarks, 8);
  EXPECT_EQ(same.model.attention.as<sample::NystromConfig>().conv_window, 5);
}

TEST(Load, what_a_later_kind_drops_must_have_been_right) {
  const auto message = [](const std::string& attention, std::vector<std::string> overrides) {
    try {
      loaded(task + "model:\n  attention: " + attention + "\n", overrides);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string to_yoso = "model.attention.kind=yoso";
  EXPECT_EQ(message("{kind: nystrom, landmarks: 8}", {to_yoso}), "");
  EXPECT_NE(message("{kind: nystrom, landmark: 8}", {to_yoso}).find("file.yaml:3:30: "), std::string::npos);
  EXPECT_NE(message("{kind: nystrom, landmarks: 0}", {to_yoso}).find("at least 1"), std::string::npos);
  EXPECT_NE(message("{hashes: 8}", {to_yoso}).find("of kind softmax"), std::string::npos);
  EXPECT_NE(message("{kind: nystrom}", {to_yoso, "model.attention.landmarks=3"}).find("of kind yoso"),
            std::string::npos);
}

TEST_F(ConfigFiles, bases_are_overlaid_key_by_key) {
  write("base/root.yaml", "run: {name: root, seed: 1}\nmodel: {layers: 1, heads: 1, dropout: 0.3}\n");
  write("base/left.yaml", "base: root.yaml\nrun: {name: left}\ntraining: {betas: [0.1, 0.2]}\n");
  write("right.yaml", "run: {name: right, seed: 3}\nmodel: {attention: {kind: yoso, hashes: 3}}\n");
  const auto file =
      write("main.yaml", "base: [base/left.yaml, right.yaml]\n" + task +
                             "model: {layers: 4, attention: {hashes: 4}}\ntraining: {betas: [0.5]}\n");
  ExperimentConfig record;
  const config::Origins origins = config::load(record, file, std::vector<std::string>{"model.heads=4"});
  EXPECT_EQ(record.run.name, "right");
  EXPECT_EQ(record.run.seed, 3u);
  EXPECT_EQ(record.model.layers, 4);
  EXPECT_EQ(record.model.heads, 4);
  EXPECT_EQ(record.model.dropout, 0.3);
  EXPECT_EQ(record.model.attention.as<sample::YosoConfig>().hashes, 4);
  EXPECT_EQ(record.training.betas, (std::vector<double>{0.5}));
  EXPECT_EQ(origins.at("run.name"), (folder_ / "right.yaml").string() + ":1");
  EXPECT_EQ(origins.at("model.dropout"), (folder_ / "base/root.yaml").string() + ":2");
  EXPECT_EQ(origins.at("model.layers"), file.string() + ":3");
  EXPECT_EQ(origins.at("model.heads"), "--set model.heads=4");
  EXPECT_FALSE(origins.contains("training.steps"));
}

TEST_F(ConfigFiles, a_file_may_switch_the_kind_of_its_base) {
  write("base.yaml", task + "model: {attention: {kind: nystrom, landmarks: 8, conv_window: 3}}\n");
  ExperimentConfig record;
  config::load(record, write("main.yaml", "base: base.yaml\nmodel: {attention: {kind: yoso, bits: 5}}\n"));
  EXPECT_EQ(record.model.attention.as<sample::YosoConfig>().bits, 5);
  EXPECT_EQ(record.model.attention.as<sample::YosoConfig>().conv_window, 0);
}

TEST_F(ConfigFiles, mistakes_of_bases_are_placed_in_them) {
  const auto base = write("base.yaml", "model:\n  layer: 3\n");
  const auto [code, message] = failure(write("main.yaml", "base: base.yaml\nrun: {seed: x}\n" + task));
  EXPECT_EQ(code, ExitCode::bad_config);
  EXPECT_NE(message.find(base.string() + ":2:3: model.layer"), std::string::npos) << message;
  EXPECT_NE(message.find("main.yaml:2:13: run.seed"), std::string::npos) << message;
}

TEST_F(ConfigFiles, base_circles_depth_and_absence_are_named) {
  write("b.yaml", "base: sub/c.yaml\n");
  write("sub/c.yaml", "base: ../a.yaml\n");
  const auto [circle_code, circle] = failure(write("a.yaml", "base: b.yaml\n" + task));
  EXPECT_EQ(circle_code, ExitCode::bad_config);
  for (const std::string part : {"sub/c.yaml:1:7: ", "circle", "a.yaml -> ", "b.yaml -> ", "sub/c.yaml -> "}) {
    EXPECT_NE(circle.find(part), std::string::npos) << part << "\n" << circle;
  }
  EXPECT_EQ(failure(write("self.yaml", "base: self.yaml\n")).first, ExitCode::bad_config);

  for (int i = 1; i <= 9; ++i)
    write("d" + std::to_string(i) + ".yaml", "base: d" + std::to_string(i + 1) + ".yaml\n");
  write("d10.yaml", task);
  EXPECT_NE(failure(folder_ / "d1.yaml").second.find("deeper than 8"), std::string::npos);
  EXPECT_EQ(failure(folder_ / "d2.yaml").second, "");

  const auto [code, message] = failure(write("main.yaml", "run: {}\nbase: [gone.yaml]\n"));
  EXPECT_EQ(code, ExitCode::missing_input);
  EXPECT_NE(message.find("main.yaml:2:8: base: there is no file"), std::string::npos) << message;
  EXPECT_EQ(failure(write("bad.yaml", "base: {a: 1}\n")).first, ExitCode::bad_config);
  EXPECT_EQ(failure(folder_ / "gone.yaml").first, ExitCode::missing_input);
  EXPECT_EQ(failure(folder_).first, ExitCode::missing_input);
}

TEST_F(ConfigFiles, pipes_are_read_and_circles_of_links_are_named) {
  std::filesystem::create_symlink("circle", folder_ / "circle");
  for (const auto& [code, text] : {failure(folder_ / "circle"), failure(write("x.yaml", "base: circle\n"))}) {
    EXPECT_EQ(code, ExitCode::missing_input);
    EXPECT_NE(text.find("circle cannot be opened"), std::string::npos) << text;
  }
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], task.data(), task.size()), static_cast<ssize_t>(task.size()));
  close(ends[1]);
  EXPECT_EQ(failure("/dev/fd/" + std::to_string(ends[0])), std::pair(ExitCode::done, std::string()));
  close(ends[0]);
}

TEST_F(ConfigFiles, paths_start_at_the_file_that_sets_them) {
  write("base/base.yaml", "run: {folder: results}\ntraining: {inputs: [a, ../b, /c]}\n");
  const auto file =
      write("main.yaml", "base: base/base.yaml\ntask: {kind: listops, folder: ./data/../lists}\n");
  ExperimentConfig record;
  config::load(record, file);
  EXPECT_EQ(record.run.folder, folder_ / "base/results");
  EXPECT_EQ(record.training.inputs,
            (std::vector<std::filesystem::path>{folder_ / "base/a", folder_ / "b", "/c"}));
  EXPECT_EQ(record.task.as<sample::ListOpsConfig>().folder, folder_ / "lists");
  config::load(record, file, std::vector<std::string>{"task.folder=here"});
  EXPECT_EQ(record.task.as<sample::ListOpsConfig>().folder, std::filesystem::current_path() / "here");
}

}  // namespace
}  // namespace tern
