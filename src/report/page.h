// A report as one HTML page, and as the part of a page that is kept up to date.
#pragma once

#include <filesystem>
#include <string>

#include "report/cells.h"

namespace tern::report {

/// A page that needs nothing else, neither files nor the net: score table, remarks, details, runs without a
/// result, and for each task the curves of dev accuracy and training loss by step.
std::string html_page(const Report& report);

/// Writes report.md, report.csv (a row for each cell), runs.csv, report.tex and report.html into `folder`,
/// which is made if need be.
void write_report(const Report& report, const std::filesystem::path& folder);

inline constexpr std::string_view page_begin = "<!-- report -->\n", page_end = "<!-- end report -->";

/// `page` with `text` between the lines page_begin and page_end. Error(bad_data) naming `where` if they are not
/// there once each, in this order.
std::string with_report(const std::string& page, const std::string& text, const std::string& where);

}  // namespace tern::report
