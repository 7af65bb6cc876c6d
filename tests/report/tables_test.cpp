// What readers of a report see.
#include "report/tables.h"

#include <gtest/gtest.h>

#include "report/page.h"
#include "report/run_fixture.h"
#include "support/thrown_error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

bool shows(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class ReportTest : public testing::Test {
 protected:
  /// The report on all runs added so far.
  report::Report gathered() {
    found_ = report::find_runs({folder_.path()});
    return report::gather(found_);
  }
  void add(const io::Json& result) { write_run(folder_ / ("run-" + std::to_string(runs_++)), result); }

  TemporaryFolder folder_;

 private:
  report::Findings found_;
  int runs_ = 0;
};

TEST_F(ReportTest, a_number_comes_with_spread_count_origin_and_what_was_published) {
  add(listops_result(1, 0.36));
  add(listops_result(2, 0.35));
  const auto rows = report::score_table(gathered()).rows;
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0], (std::vector<std::string>{"mechanism", "listops"}));
  EXPECT_EQ(rows[1], (std::vector<std::string>{"Softmax", "35.50 ± 0.71 (2) generated"}));
  EXPECT_EQ(rows[2], (std::vector<std::string>{"Softmax, published", "37.10"}));
  EXPECT_EQ(rows[3], (std::vector<std::string>{"majority class", "17.50"}));
  const auto detail = report::detail_table(gathered()).rows;
  const auto column = [&](const char* name) {
    return detail[1][static_cast<std::size_t>(std::find(detail[0].begin(), detail[0].end(), name) -
                                              detail[0].begin())];
  };
  EXPECT_EQ(column("difference"), "-1.60");
  EXPECT_EQ(column("test %"), "35.50");
  EXPECT_EQ(column("test deviation"), "0.71");
  EXPECT_EQ(column("whole batches %"), "36.30");
  EXPECT_EQ(column("whole batches deviation"), "0.00");
  EXPECT_EQ(column("seeds"), "1 2");
  EXPECT_EQ(column("protocol"), "B, Nystromformer/YOSO");
  EXPECT_EQ(column("commit"), "abcdef012345");
  EXPECT_EQ(column("device"), "NVIDIA H100");
  EXPECT_EQ(column("peak MiB"), "272.9");
}

TEST_F(ReportTest, fewer_rows_than_a_batch_have_no_score_of_whole_batches) {
  io::Json few = listops_result(1, 0.36);
  few["test_drop_last"] = {{"examples", 0}, {"loss", 0.0}, {"accuracy", 0.0}};
  add(few);
  const report::Report report = gathered();
  for (const report::Table& table : {report::detail_table(report), report::run_table(report)}) {
    const auto& head = table.rows[0];
    const auto column = std::find(head.begin(), head.end(), "whole batches %") - head.begin();
    EXPECT_EQ(table.rows[1].at(static_cast<std::size_t>(column)), "-");
  }
  EXPECT_EQ(report::detail_table(report).rows[1][9], "-") << "whole batches deviation";
}

TEST_F(ReportTest, nothing_published_is_missed_beside_own_data) {
  const std::string remark = "No run follows a published protocol";
  io::Json variant = listops_result();
  variant["data"]["train"]["records"] = 1000;
  add(variant);
  EXPECT_TRUE(shows(report::markdown(gathered()), remark));
  variant["config"]["task.kind"] = "classification";
  write_run(folder_ / "run-0", variant);
  EXPECT_FALSE(shows(report::markdown(gathered()), remark));
}

TEST_F(ReportTest, one_seed_has_no_spread) {
  add(listops_result(1, 0.36));
  const report::Report report = gathered();
  EXPECT_EQ(report::score_table(report).rows[1][1], "36.00 (1) generated");
  EXPECT_EQ(report::detail_table(report).rows[1][7], "-") << "test deviation";
}

TEST_F(ReportTest, a_shortened_run_has_nothing_published_beside_it) {
  io::Json result = listops_result();
  result["config"]["training.steps"] = "20";
  add(result);
  const std::string text = report::markdown(gathered());
  EXPECT_FALSE(shows(text, "37.10"));
  EXPECT_TRUE(shows(text, "No run follows a published protocol"));
}

TEST_F(ReportTest, the_average_needs_all_five_tasks) {
  struct Setting {
    std::string task, steps;
    int train, dev, test;
  };
  for (const Setting& setting : std::vector<Setting>{{"listops", "5000", 96000, 2000, 2000},
                                                     {"text", "20000", 25000, 25000, 25000},
                                                     {"retrieval", "30000", 147086, 18090, 17437},
                                                     {"image", "35000", 45000, 5000, 10000},
                                                     {"pathfinder", "62400", 160000, 20000, 20000}}) {
    const std::string& task = setting.task;
    EXPECT_FALSE(shows(report::markdown(gathered()), "| average |")) << "before " << task;
    io::Json result = listops_result();
    io::Json &config = result["config"], &data = result["data"];
    config["task.kind"] = task;
    if (task == "pathfinder") config["task.size"] = "32";
    config["training.steps"] = setting.steps;
    if (task == "text" || task == "retrieval") config["task.padded_length"] = "4096";
    if (task == "image" || task == "pathfinder") config["training.batch_size"] = "256";
    data["train"]["records"] = setting.train;
    data["dev"]["records"] = setting.dev;
    data["test"]["records"] = setting.test;
    if (task == "text") data["train"]["options"]["sources"] = io::Json::array();
    result["test"]["accuracy"] = 0.5 + 0.01 * static_cast<double>(task.size());
    add(result);
  }
  const auto rows = report::score_table(gathered()).rows;
  EXPECT_EQ(rows[0].back(), "average");
  // names of 7, 4, 9, 5 and 10 letters: 50 + 35 / 5
  EXPECT_EQ(rows[1].back(), "57.00 generated") << "as far as any of its parts is";
  EXPECT_EQ(rows[2].back(), "58.77") << "as the paper prints it";
  EXPECT_EQ(rows[2].front(), "Softmax, published");
}

TEST_F(ReportTest, unverified_values_and_runs_without_a_result_are_told) {
  io::Json result = listops_result();
  for (const auto& [key, value] : {std::pair("kind", "yoso"), std::pair("form", "sampled"),
                                   std::pair("hashes", "32"), std::pair("conv_window", "0")})
    result["config"]["model.attention." + std::string(key)] = value;
  add(result);
  report::Report report = gathered();
  report.gaps.push_back({"listops-none-seed1", "failed", "a | b"});
  report.gaps.push_back({"text-none-seed1", "interrupted", "a signal", 410, 0.75});
  report.not_begun = 161;
  const std::string text = report::markdown(report);
  EXPECT_TRUE(shows(text, "| YOSO-32, published (not verified) | 37.25 |")) << text;
  EXPECT_TRUE(shows(text, "| listops-none-seed1 | failed | - | - | a \\| b |")) << text;
  EXPECT_TRUE(shows(text, "| text-none-seed1 | interrupted | 410 | 75.00 | a signal |")) << text;
  EXPECT_TRUE(shows(text, "- Runs without an accuracy to show, listed below: 2.")) << text;
  EXPECT_TRUE(shows(text, "- Planned runs that have not begun: 161.\n")) << text;
  EXPECT_TRUE(shows(report::html_page(report), "Planned runs that have not begun: 161."));
  EXPECT_TRUE(shows(text, "generated: data made here by the benchmark's rule"));
}

TEST_F(ReportTest, no_runs_are_said_to_be_none) {
  EXPECT_EQ(report::markdown(gathered()), "No run is here yet.\n");
}

TEST_F(ReportTest, runs_not_begun_are_told_where_no_result_is) {
  report::Report report;
  report.not_begun = 3;
  EXPECT_EQ(report::markdown(report), "- Planned runs that have not begun: 3.\n");
  EXPECT_TRUE(shows(report::html_page(report), "<li>Planned runs that have not begun: 3.</li>"));
}

TEST(TableText, each_format_escapes_its_own_signs) {
  const report::Table table{"50 % of <a>", {{"a", "b"}, {"x, \"y\"", "1 ± 2"}, {"p_q|r & <s>", "#3"}}};
  EXPECT_EQ(report::csv(table), "a,b\r\n\"x, \"\"y\"\"\",1 ± 2\r\np_q|r & <s>,#3\r\n");
  EXPECT_EQ(report::markdown(table),
            "**50 % of <a>**\n\n| a | b |\n|---|---|\n| x, \"y\" | 1 ± 2 |\n| p_q\\|r & <s> | #3 |\n");
  const std::string latex = report::latex(table);
  EXPECT_TRUE(shows(latex, "\\caption{50 \\% of <a>}")) << latex;
  EXPECT_TRUE(shows(latex, "x, \"y\" & 1 $\\pm$ 2 \\\\\n")) << latex;
  EXPECT_TRUE(shows(latex, "p\\_q|r \\& <s> & \\#3 \\\\\n")) << latex;
  EXPECT_TRUE(shows(latex, "\\begin{tabular}{lr}"));
  const std::string html = report::html(table);
  EXPECT_TRUE(shows(html, "<caption>50 % of &lt;a&gt;</caption>")) << html;
  EXPECT_TRUE(shows(html, "<td>p_q|r &amp; &lt;s&gt;</td><td>#3</td>")) << html;
}

TEST_F(ReportTest, the_page_needs_nothing_else) {
  add(listops_result(1, 0.36));
  const std::string page = report::html_page(gathered());
  EXPECT_TRUE(page.starts_with("<!DOCTYPE html>"));
  for (const char* outside : {"<script", "src=", "href=", "@import", "url("})
    EXPECT_FALSE(shows(page, outside));
  EXPECT_TRUE(shows(page, "listops: accuracy on dev</title>"));
  EXPECT_TRUE(shows(page, "listops: training loss</title>"));
  EXPECT_TRUE(shows(page, "Softmax, seed 1</text>"));
  EXPECT_TRUE(shows(page, "36.00 (1) generated"));
}

TEST_F(ReportTest, all_files_are_written) {
  add(listops_result(1, 0.36));
  const TemporaryFolder out;
  report::write_report(gathered(), out / "report");
  for (const char* name : {"report.md", "report.csv", "runs.csv", "report.tex", "report.html"})
    EXPECT_TRUE(shows(read_bytes(fs::path(out / "report") / name), "36.00")) << name;
}

TEST(Page, the_table_stands_between_the_marks) {
  const std::string page = "# Title\n<!-- report -->\nold\n<!-- end report -->\nmore\n";
  EXPECT_EQ(report::with_report(page, "new\n", "page"),
            "# Title\n<!-- report -->\nnew\n<!-- end report -->\nmore\n");
  for (const char* bad : {"no marks\n", "<!-- report -->\n", "<!-- end report -->\n<!-- report -->\n",
                          "<!-- report -->\n<!-- report -->\n<!-- end report -->\n"})
    EXPECT_EQ(thrown_error([&] { report::with_report(bad, "new", "page"); }).code(), ExitCode::bad_data) << bad;
}

}  // namespace
}  // namespace tern::test
