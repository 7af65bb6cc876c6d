// Reading runs, sweeps and ledgers, and adding to a ledger.
#include <gtest/gtest.h>

#include "report/run_fixture.h"
#include "support/thrown_error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;
using report::find_runs;

TEST(FindRuns, results_are_found_below_any_folder) {
  const TemporaryFolder folder;
  write_run(folder / "a/one", listops_result(1, 0.36));
  write_run(folder / "a/deeper/two", listops_result(2, 0.35));
  EXPECT_EQ(find_runs({folder.path()}).runs.size(), 2u);
  EXPECT_EQ(find_runs({folder / "a/one"}).runs.size(), 1u);
  EXPECT_EQ(find_runs({folder / "a/one/result.json"}).runs[0].name, "one");
  EXPECT_EQ(find_runs({folder / "a/one", folder / "a/deeper"}).runs.size(), 2u);
}

TEST(FindRuns, curves_come_from_the_rows_that_are_whole) {
  const TemporaryFolder folder;
  write_run(folder / "run", listops_result());
  const report::RunRecord run = find_runs({folder / "run"}).runs[0];
  EXPECT_EQ(run.train_loss, (report::Curve{{10, 2.25}, {20, 2.125}}));
  EXPECT_EQ(run.dev_accuracy, (report::Curve{{10, 0.25}}));
  EXPECT_EQ(run.device, "NVIDIA H100");
  EXPECT_EQ(run.seed, 1u);
}

TEST(FindRuns, long_curves_become_means_of_neighbours) {
  const TemporaryFolder folder;
  write_run(folder / "run", listops_result());
  std::string rows;
  for (int step = 1; step <= 400; ++step)
    rows +=
        "{\"kind\":\"train\",\"step\":" + std::to_string(step) + ",\"loss\":" + std::to_string(step) + "}\n";
  write_bytes(folder / "run/metrics.jsonl", rows);
  const report::Curve curve = find_runs({folder / "run"}).runs[0].train_loss;
  ASSERT_EQ(curve.size(), 200u);
  EXPECT_EQ(curve.front(), std::pair(2.0, 1.5));
  EXPECT_EQ(curve.back(), std::pair(400.0, 399.5));
}

TEST(FindRuns, unfinished_and_failed_runs_are_gaps) {
  const TemporaryFolder folder;
  write_run(folder / "sweep/done", listops_result());
  write_run(folder / "alone", listops_result());
  fs::remove(folder / "alone/result.json");
  write_bytes(folder / "sweep/sweep.json",
              R"({"runs": [{"name": "done", "state": "done", "error": ""},
                           {"name": "broken", "state": "failed", "error": "a reason"}]})");
  const report::Findings found = find_runs({folder.path()});
  ASSERT_EQ(found.runs.size(), 1u);
  ASSERT_EQ(found.gaps.size(), 2u);
  EXPECT_EQ(found.gaps[0].name, "alone");
  EXPECT_EQ(found.gaps[0].state, "unfinished");
  EXPECT_EQ(found.gaps[1].state, "failed");
  EXPECT_EQ(found.gaps[1].reason, "a reason");
}

TEST(FindRuns, gaps_tell_how_far_they_came) {
  const TemporaryFolder folder;
  write_run(folder / "stopped", listops_result());
  fs::remove(folder / "stopped/result.json");
  std::string rows;  // more of them than a curve has points, and the best in the middle
  for (int step = 1; step <= 400; ++step)
    rows += "{\"kind\":\"dev\",\"step\":" + std::to_string(step) +
            ",\"accuracy\":" + (step == 250 ? "0.75" : "0.5") + "}\n";
  write_bytes(folder / "stopped/metrics.jsonl", rows + "{\"kind\":\"train\",\"step\":410,\"loss\":1}\n");
  write_bytes(folder / "sweep.json",
              R"({"runs": [{"name": "stopped", "state": "interrupted", "error": "a signal"},
                           {"name": "broken", "state": "failed", "error": "a reason"}]})");
  const report::Findings found = find_runs({folder.path()});
  ASSERT_EQ(found.gaps.size(), 2u);
  EXPECT_EQ(found.gaps[0].name, "broken");
  EXPECT_FALSE(found.gaps[0].step || found.gaps[0].dev_accuracy) << "it wrote no metrics";
  EXPECT_EQ(found.gaps[1].state, "interrupted");
  EXPECT_EQ(found.gaps[1].step, 410);
  EXPECT_EQ(found.gaps[1].dev_accuracy, 0.75);
}

TEST(FindRuns, runs_that_never_began_are_no_gaps) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "tried");  // by an earlier sweep of this folder
  write_bytes(folder / "sweep.json",
              R"({"runs": [{"name": "planned", "state": "new", "error": ""},
                           {"name": "tried", "state": "new", "error": ""}]})");
  const report::Findings found = find_runs({folder.path()});
  EXPECT_EQ(found.not_begun, (std::set<std::string>{"planned"}));
  ASSERT_EQ(found.gaps.size(), 1u);
  EXPECT_EQ(found.gaps[0].name, "tried");
  EXPECT_EQ(found.gaps[0].state, "unfinished");
}

TEST(FindRuns, nothing_is_counted_twice) {
  const TemporaryFolder folder;
  const std::string planned = R"({"name": "never", "state": "new", "error": ""},
                                 {"name": "here", "state": "new", "error": ""},
                                 {"name": "stopped", "state": "new", "error": ""})";
  write_run(folder / "a/here", listops_result());
  write_run(folder / "b/stopped", listops_result());
  fs::remove(folder / "b/stopped/result.json");
  for (const char* sweep : {"a", "b"})
    write_bytes(folder / sweep / "sweep.json", "{\"runs\": [" + planned + "]}");
  const report::Findings found = find_runs({folder / "a", folder / "b", folder / "b", folder / "a/here",
                                            folder / "b/../a/here/result.json", folder / "b/stopped"});
  ASSERT_EQ(found.runs.size(), 1u);
  EXPECT_EQ(found.runs[0].name, "here");
  ASSERT_EQ(found.gaps.size(), 1u);
  EXPECT_EQ(found.gaps[0].name, "stopped");
  EXPECT_EQ(found.not_begun, (std::set<std::string>{"never"}));
}

TEST(FindRuns, bad_input_is_named) {
  const TemporaryFolder folder;
  const Error absent = thrown_error([&] { find_runs({folder / "nothing"}); });
  EXPECT_EQ(absent.code(), ExitCode::missing_input);
  for (const char* key :
       {"seed", "test_drop_last", "config", "data", "environment", "fingerprint", "finished"}) {
    io::Json result = listops_result();
    result.erase(key);
    write_run(folder / "run", result);
    const Error error = thrown_error([&] { find_runs({folder / "run"}); });
    EXPECT_EQ(error.code(), ExitCode::bad_data) << key;
    EXPECT_TRUE(mentions(error, key) && mentions(error, "result.json")) << error.what();
  }
  write_bytes(folder / "run/result.json", "{\"seed\": 1, ");
  EXPECT_EQ(thrown_error([&] { find_runs({folder / "run"}); }).code(), ExitCode::bad_data);
}

TEST(Ledger, entries_read_back_as_the_runs_they_were) {
  const TemporaryFolder folder;
  write_run(folder / "runs/one", listops_result(1, 0.36));
  write_run(folder / "runs/two", listops_result(2, 0.35));
  const auto runs = find_runs({folder / "runs"}).runs;
  EXPECT_EQ(report::add_to_ledger(folder / "ledger", runs), 2);
  const auto read = find_runs({folder / "ledger"}).runs;
  ASSERT_EQ(read.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(read[i].test, runs[i].test);
    EXPECT_EQ(read[i].train_loss, runs[i].train_loss);
    EXPECT_EQ(read[i].dev_accuracy, runs[i].dev_accuracy);
    EXPECT_EQ(read[i].fingerprint, runs[i].fingerprint);
    EXPECT_EQ(read[i].config_value("model.width"), "64");
  }
}

TEST(Ledger, adding_again_changes_nothing) {
  const TemporaryFolder folder;
  write_run(folder / "run", listops_result());
  const fs::path ledger = folder / "ledger";
  EXPECT_EQ(report::add_to_ledger(ledger, find_runs({folder / "run"}).runs), 1);
  const fs::path entry = ledger / "run-6e91e1fa.json";
  ASSERT_TRUE(fs::exists(entry));
  const std::string before = read_bytes(entry);
  EXPECT_EQ(report::add_to_ledger(ledger, find_runs({folder / "run"}).runs), 0);
  EXPECT_EQ(report::add_to_ledger(ledger, find_runs({ledger}).runs), 0) << "a ledger onto itself";
  EXPECT_EQ(read_bytes(entry), before);
}

TEST(Ledger, entries_of_pretraining_are_kept_too) {
  const TemporaryFolder folder;
  io::Json result = listops_result();
  result["config"]["objective.kind"] = "masked_tokens";
  result["test_majority_accuracy"] = nullptr;
  write_run(folder / "run", result);
  EXPECT_EQ(report::add_to_ledger(folder / "ledger", find_runs({folder / "run"}).runs), 1);
  EXPECT_TRUE(fs::exists(folder / "ledger/run-6e91e1fa.json"));
}

TEST(Ledger, entries_hold_no_paths_of_a_machine) {
  const TemporaryFolder folder;
  io::Json result = listops_result();
  result["start"] = {{"path", "/somewhere/runs/pre-seed1"}};
  write_run(folder / "run", result);
  report::add_to_ledger(folder / "ledger", find_runs({folder / "run"}).runs);
  const std::string text = read_bytes(folder / "ledger/run-6e91e1fa.json");
  EXPECT_NE(text.find("\"path\":\"pre-seed1\""), std::string::npos) << text;
  EXPECT_EQ(text.find("/somewhere"), std::string::npos) << text;
  EXPECT_NE(text.find("\"task.data\":\"listops\""), std::string::npos) << text;
}

}  // namespace
}  // namespace tern::test
