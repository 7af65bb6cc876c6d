// A report as tables.
#pragma once

#include <string>
#include <vector>

#include "report/cells.h"
#include "report/table_text.h"

namespace tern::report {

/// Mechanisms by tasks: test accuracy in percent, "36.20 ± 0.70 (3)" with the number of seeds in brackets (and
/// no ± for one), marked where the data are not the benchmark's own; below each mechanism that follows a
/// published protocol the published scores, and the majority class at the end. The average is over
/// averaged_tasks(), where all of them are there.
Table score_table(const Report& report);
/// One row for each cell, with all that belongs to a number: both test conventions, the mean and the standard
/// deviation of each score over the seeds in columns of their own, published value and source, device, commit,
/// hashes of data and recipe.
Table detail_table(const Report& report);
/// One row for each run.
Table run_table(const Report& report);
/// Runs without an accuracy: unfinished, failed, or with another aim; and how far they came.
Table gap_table(const Report& report);

/// What the marks in score_table mean, as far as they occur, the report's notes, whether published values were
/// verified, and how many runs have no accuracy or have not begun.
std::vector<std::string> remarks(const Report& report);

/// Score table, remarks, details and gaps; or the sentence that there is no run.
std::string markdown(const Report& report);
/// Score table, and the remarks as comments.
std::string latex(const Report& report);

/// 0.362 -> "36.20".
std::string percent(double share);

}  // namespace tern::report
