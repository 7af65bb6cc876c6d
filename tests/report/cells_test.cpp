// Which runs make up a number, and what the number is called.
#include "report/cells.h"

#include <set>

#include <gtest/gtest.h>

#include "report/run_fixture.h"
#include "support/thrown_error.h"

namespace tern::test {
namespace {

using report::Cell;
using report::Report;

/// What find_runs makes of these results, each in a folder of its own.
report::Findings found(const std::vector<io::Json>& results) {
  const TemporaryFolder folder;
  for (std::size_t i = 0; i < results.size(); ++i) write_run(folder / ("run-" + std::to_string(i)), results[i]);
  return report::find_runs({folder.path()});
}

io::Json with_config(io::Json result, const std::string& key, const std::string& value) {
  result["config"][key] = value;
  return result;
}

TEST(Cells, statistics_are_those_of_a_sample) {
  const auto of = [](std::vector<double> values) { return report::statistics_of(values); };
  // mean 7/3; squares of the deviations 16/9 + 1/9 + 25/9 = 42/9, over two: 7/3
  EXPECT_DOUBLE_EQ(of({1, 2, 4}).mean, 7.0 / 3);
  EXPECT_DOUBLE_EQ(of({1, 2, 4}).deviation.value(), std::sqrt(7.0 / 3));
  EXPECT_EQ(of({1, 2, 4}).count, 3);
  EXPECT_EQ(of({5}).mean, 5);
  EXPECT_FALSE(of({5}).deviation.has_value()) << "one value has no spread";
  EXPECT_EQ(of({}).count, 0);
}

TEST(Cells, seeds_of_one_recipe_make_one_number) {
  const auto runs = found({listops_result(1, 0.36), listops_result(2, 0.35), listops_result(3, 0.37)});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.cells.size(), 1u);
  const Cell& cell = report.cells.front();
  EXPECT_EQ(cell.row_name(), "Softmax");
  EXPECT_EQ(cell.task, "listops");
  EXPECT_EQ(cell.test.count, 3);
  EXPECT_NEAR(cell.test.mean, 0.36, 1e-12);
  EXPECT_NEAR(cell.test.deviation.value(), 0.01, 1e-12);
  EXPECT_NEAR(cell.drop_last.value().mean, 0.363, 1e-12);
  EXPECT_NEAR(cell.evaluation_seconds.mean, 4, 1e-12);
  EXPECT_TRUE(report.notes.empty()) << report.notes.front();
}

TEST(Cells, other_settings_and_other_data_are_never_averaged) {
  const io::Json first = listops_result(1, 0.36), second = listops_result(2, 0.30);
  io::Json other_data = second;
  other_data["data"]["test"]["content_xxh3_128"] = "dd";
  struct Case {
    io::Json other;
    std::string difference;
  };
  const std::vector<Case> cases{{with_config(second, "model.width", "128"), "model.width"},
                                {with_config(second, "training.steps", "50"), "training.steps"},
                                {with_config(second, "model.new_key", "1"), "model.new_key"},
                                {with_config(second, "run.precision", "float32"), "run.precision"},
                                {other_data, "the data"}};
  for (const Case& mixed : cases) {
    const auto runs = found({first, mixed.other});
    const Report report = report::gather(runs);
    ASSERT_EQ(report.cells.size(), 2u) << mixed.difference;
    for (const Cell& cell : report.cells) EXPECT_EQ(cell.test.count, 1);
    EXPECT_NE(report.cells[0].row_name(), report.cells[1].row_name()) << mixed.difference;
    ASSERT_EQ(report.notes.size(), 1u);
    EXPECT_NE(report.notes[0].find(mixed.difference), std::string::npos) << report.notes[0];
  }
}

TEST(Cells, another_kind_stands_for_its_settings) {
  io::Json other = with_config(listops_result(1, 0.3), "schedule.kind", "constant");
  other["config"]["schedule.only_here"] = "1";
  const auto runs = found({listops_result(1, 0.36), other});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.cells.size(), 2u);
  EXPECT_EQ(report.cells[0].variation, "");
  EXPECT_EQ(report.cells[1].variation, "schedule.kind=constant");
}

TEST(Cells, what_cannot_change_a_score_does_not_split) {
  io::Json second = listops_result(2, 0.30);
  for (const char* key : {"run.threads", "run.out", "run.name", "run.graphs", "task.data", "training.log_every",
                          "training.checkpoint_every", "model.recompute"})
    second["config"][key] = "17";
  const auto runs = found({listops_result(1, 0.36), second});
  EXPECT_EQ(report::gather(runs).cells.size(), 1u);
}

TEST(Cells, pretrained_runs_of_several_seeds_belong_together) {
  const auto runs =
      found({with_config(listops_result(1, 0.36), "training.start_from", "/a/runs/listops-pre-seed1"),
             with_config(listops_result(2, 0.38), "training.start_from", "/b/runs/listops-pre-seed2")});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.cells.size(), 1u);
  EXPECT_EQ(report.cells[0].row_name(), "Softmax, pre-trained");
  EXPECT_EQ(report.cells[0].protocol, report::Protocol::none) << "the published runs began from scratch";

  const auto others =
      found({with_config(listops_result(1, 0.36), "training.start_from", "/a/runs/small-seed1"),
             with_config(listops_result(2, 0.38), "training.start_from", "/a/runs/large-seed2")});
  EXPECT_EQ(report::gather(others).cells.size(), 2u) << "they began from different runs";
}

TEST(Cells, the_last_of_several_results_of_a_seed_counts) {
  io::Json later = listops_result(1, 0.40);
  later["finished"] = "2026-02-01T00:00:00Z";
  const auto runs = found({listops_result(1, 0.36), later, listops_result(1, 0.36)});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.cells.size(), 1u);
  EXPECT_EQ(report.cells[0].test.count, 1);
  EXPECT_DOUBLE_EQ(report.cells[0].test.mean, 0.40);
  ASSERT_FALSE(report.notes.empty());
  EXPECT_NE(report.notes[0].find("seed 1"), std::string::npos);

  const auto twice = found({listops_result(1, 0.36), listops_result(1, 0.36)});
  EXPECT_EQ(report::gather(twice).cells[0].test.count, 1);
  EXPECT_TRUE(report::gather(twice).notes.empty()) << "the same run in two places";
}

TEST(Cells, runs_from_several_devices_and_commits_are_noted) {
  io::Json second = listops_result(2, 0.35);
  second["environment"]["gpu"] = "NVIDIA H200, compute capability 9.0";
  second["environment"]["commit"] = "0123";
  const auto runs = found({listops_result(1, 0.36), second});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.notes.size(), 2u);
  EXPECT_NE(report.notes[0].find("abcdef012345; 0123"), std::string::npos) << report.notes[0];
  EXPECT_NE(report.notes[1].find("NVIDIA H100; NVIDIA H200"), std::string::npos) << report.notes[1];
}

TEST(Cells, other_objectives_have_no_accuracy_to_show) {
  io::Json regression = listops_result(2, 0.3);
  regression["test"].erase("accuracy");
  regression["test_majority_accuracy"] = nullptr;
  const auto runs = found({with_config(listops_result(), "objective.kind", "masked_tokens"), regression});
  const Report report = report::gather(runs);
  EXPECT_TRUE(report.cells.empty());
  EXPECT_EQ(report.gaps.size(), 2u);
}

TEST(Cells, rows_do_not_mix_protocols) {
  io::Json text = listops_result();  // ListOps by protocol B, text in a way of its own
  text["config"]["task.kind"] = "text";
  const auto runs = found({listops_result(), text});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.cells.size(), 2u);
  EXPECT_EQ(report.cells[0].row_name(), "Softmax (B, Nystromformer/YOSO)");
  EXPECT_EQ(report.cells[1].row_name(), "Softmax (own)");
}

TEST(Cells, several_sizes_of_a_model_are_rows_of_their_own) {
  const auto pretrained = [](const char* task, const char* layers, const char* width) {
    io::Json run = with_config(listops_result(), "training.start_from", "runs/before-seed1");
    run["config"]["task.kind"] = task;
    run["config"]["model.layers"] = layers;
    run["config"]["model.width"] = width;
    return run;
  };
  const auto runs = found({listops_result(), pretrained("listops", "2", "64"), pretrained("text", "2", "64"),
                           pretrained("text", "6", "512")});
  const Report report = report::gather(runs);
  std::vector<std::string> rows;
  for (const Cell& cell : report.cells) rows.push_back(cell.task + ": " + cell.row_name());
  EXPECT_EQ(rows, (std::vector<std::string>{"listops: Softmax", "listops: Softmax, pre-trained (2 x 64)",
                                            "text: Softmax, pre-trained (2 x 64)",
                                            "text: Softmax, pre-trained (6 x 512)"}));
}

TEST(Cells, other_data_have_nothing_published_beside_them) {
  io::Json fewer = listops_result();
  fewer["data"]["train"]["records"] = 1000;
  const auto whole = found({listops_result()}), short_of = found({fewer});
  EXPECT_TRUE(report::gather(whole).cells[0].published.has_value());
  EXPECT_FALSE(report::gather(short_of).cells[0].published.has_value());
}

struct NameCase {
  std::vector<std::pair<std::string, std::string>> config;
  std::string task, mechanism;
};

TEST(Cells, tasks_and_mechanisms_have_their_published_names) {
  const std::string a = "model.attention.";
  const std::vector<NameCase> cases{
      {{}, "listops", "Softmax"},
      {{{a + "kind", "yoso"}, {a + "form", "sampled"}, {a + "hashes", "32"}, {a + "conv_window", "0"}},
       "listops",
       "YOSO-32"},
      {{{a + "kind", "yoso"}, {a + "form", "sampled"}, {a + "hashes", "16"}, {a + "conv_window", "33"}},
       "listops",
       "YOSO-C-16"},
      {{{a + "kind", "yoso"}, {a + "form", "expectation"}, {a + "hashes", "32"}}, "listops", "YOSO-E"},
      {{{a + "kind", "taylor"}, {"task.kind", "pathfinder"}, {"task.size", "32"}}, "pathfinder32", "taylor"},
      {{{a + "kind", "none"}, {"task.kind", "pathfinder"}, {"task.size", "128"}}, "path_x", "None"}};
  for (const NameCase& named : cases) {
    io::Json result = listops_result();
    for (const auto& [key, value] : named.config) result["config"][key] = value;
    const auto runs = found({result});
    EXPECT_EQ(report::task_name(runs.runs[0]), named.task);
    EXPECT_EQ(report::mechanism_name(runs.runs[0]), named.mechanism);
  }
}

TEST(Cells, own_data_carry_the_name_of_their_folder) {
  io::Json films = listops_result(), moods = listops_result(), plain = listops_result();
  for (io::Json* result : {&films, &moods, &plain}) (*result)["config"]["task.kind"] = "classification";
  films["config"]["task.data"] = "/somewhere/data/films";
  moods["config"]["task.data"] = "\"/somewhere/with spaces/moods/\"";
  plain["config"]["task.data"] = "/somewhere/data/prepared/classification";
  const auto runs = found({films, moods, plain});
  const Report report = report::gather(runs);
  ASSERT_EQ(report.cells.size(), 3u);
  std::set<std::string> columns;
  for (const report::Cell& cell : report.cells) columns.insert(cell.task);
  EXPECT_EQ(columns,
            (std::set<std::string>{"films (classification)", "moods (classification)", "classification"}));
  EXPECT_EQ(report.cells[0].row_name(), "Softmax") << "columns tell them apart";
}

TEST(Cells, data_are_called_what_they_are) {
  using report::DataOrigin;
  const auto origin_of = [](const io::Json& result) { return report::data_origin(found({result}).runs[0]); };
  EXPECT_EQ(origin_of(listops_result()), DataOrigin::generated);
  io::Json result = listops_result();
  result["data"]["train"]["options"]["min_length"] = 12;
  EXPECT_EQ(origin_of(result), DataOrigin::variant) << "short sequences";
  result = listops_result();
  result["data"]["train"]["records"] = 90000;
  EXPECT_EQ(origin_of(result), DataOrigin::variant) << "fewer records";
  result = listops_result();
  result["data"]["train"]["options"]["sources"] = io::Json::array();
  EXPECT_EQ(origin_of(result), DataOrigin::published);
  result["data"]["train"]["task"] = "retrieval_substitute";
  EXPECT_EQ(origin_of(result), DataOrigin::substitute);
  EXPECT_EQ(origin_of(with_config(listops_result(), "task.kind", "classification")), DataOrigin::own);
}

}  // namespace
}  // namespace tern::test
