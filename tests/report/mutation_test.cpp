// What runs wrote, damaged or hostile: reported, or refused by file and reason.
#include "support/mutation.h"

#include <gtest/gtest.h>

#include "report/page.h"
#include "report/run_fixture.h"
#include "report/tables.h"

namespace tern::test {
namespace {

/// Every form of a report, of what the paths hold.
void report_all(const std::filesystem::path& folder) {
  const report::Findings found = report::find_runs({folder});
  const report::Report report = report::gather(found);
  report::markdown(report);
  report::latex(report);
  report::html_page(report);
  report::csv(report::detail_table(report));
  report::csv(report::run_table(report));
}

class ReportMutation : public testing::TestWithParam<Variation> {
 protected:
  TemporaryFolder folder;
  Fed feed_file(const std::string& name, int count) const {
    const std::string sound = read_bytes(folder / name);
    return feed(sound, GetParam(), count, {ExitCode::bad_data}, [&](const std::string& text) {
      write_bytes(folder / name, text);
      report_all(folder.path());
    });
  }
};

TEST_P(ReportMutation, changed_results_are_reported_or_refused) {
  write_run(folder / "run", listops_result(1, 0.36));
  write_run(folder / "other", listops_result(2, 0.35));
  EXPECT_GT(feed_file("run/result.json", 300).refused, 50);
}

TEST_P(ReportMutation, changed_ledger_entries_are_reported_or_refused) {
  write_run(folder / "run", listops_result(1, 0.36));
  report::add_to_ledger(folder / "ledger", report::find_runs({folder / "run"}).runs);
  std::filesystem::remove_all(folder / "run");
  const auto entry = *std::filesystem::directory_iterator(folder / "ledger");
  EXPECT_GT(feed_file("ledger/" + entry.path().filename().string(), 200).refused, 30);
}

TEST_P(ReportMutation, changed_sweeps_are_reported_or_refused) {
  write_run(folder / "one", listops_result(1, 0.36));
  write_bytes(folder / "sweep.json",
              R"({"runs": [{"name": "one", "state": "done", "error": ""},
                           {"name": "two", "state": "failed", "error": "a reason"},
                           {"name": "three", "state": "new", "error": ""}]})");
  EXPECT_GT(feed_file("sweep.json", 150).refused, 20);
}

INSTANTIATE_TEST_SUITE_P(, ReportMutation, testing::Values(Variation::bytes, Variation::json),
                         [](const auto& info) { return info.param == Variation::json ? "values" : "bytes"; });

TEST(MetricsMutation, no_damaged_metrics_row_stops_a_report) {
  const TemporaryFolder folder;
  write_run(folder / "run", listops_result());
  const Fed fed =
      feed(read_bytes(folder / "run/metrics.jsonl"), Variation::bytes, 300, {}, [&](const std::string& text) {
        write_bytes(folder / "run/metrics.jsonl", text);
        report_all(folder.path());
      });
  EXPECT_EQ(fed.refused, 0);
}

}  // namespace
}  // namespace tern::test
