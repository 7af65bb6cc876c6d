#include "report/table_text.h"

#include <functional>

namespace tern::report {
namespace {

using Row = std::vector<std::string>;
using Escape = std::function<std::string(char)>;

std::string escaped(const std::string& text, const Escape& escape) {
  std::string out;
  for (const char c : text) out += escape(c);
  return out;
}

std::string markdown_text(const std::string& text) {
  return escaped(text, [](char c) { return c == '|' ? "\\|" : c == '\n' ? " " : std::string(1, c); });
}

std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return text;
  return "\"" + escaped(text, [](char c) { return c == '"' ? "\"\"" : std::string(1, c); }) + "\"";
}

std::string latex_text(const std::string& text) {
  std::string out = escaped(text, [](char c) -> std::string {
    if (c == '\\') return "\\textbackslash{}";
    if (c == '~') return "\\textasciitilde{}";
    if (c == '^') return "\\textasciicircum{}";
    return (std::string("&%$#_{}").find(c) == std::string::npos ? "" : "\\") + std::string(1, c);
  });
  const std::string sign = "±";
  for (std::size_t at = 0; (at = out.find(sign, at)) != out.npos;) out.replace(at, sign.size(), "$\\pm$");
  return out;
}

/// The cells of a row with something before, between and behind them.
std::string joined(const Row& row, const std::string& before, const std::string& between,
                   const std::string& behind, std::string (*text)(const std::string&)) {
  std::string line = before;
  for (std::size_t c = 0; c < row.size(); ++c) line += (c == 0 ? "" : between) + text(row[c]);
  return line + behind;
}

}  // namespace

std::string markdown(const Table& table) {
  std::string text = "**" + markdown_text(table.title) + "**\n\n";
  for (const Row& row : table.rows) {
    text += joined(row, "| ", " | ", " |\n", markdown_text);
    if (&row != &table.rows.front()) continue;
    for (std::size_t c = 0; c < row.size(); ++c) text += "|---";
    text += "|\n";
  }
  return text;
}

std::string csv(const Table& table) {
  std::string text;
  for (const Row& row : table.rows) text += joined(row, "", ",", "\r\n", csv_text);
  return text;
}

std::string latex(const Table& table) {
  std::string text = "\\begin{table}\n\\caption{" + latex_text(table.title) + "}\n\\begin{tabular}{l" +
                     std::string(table.rows.front().size() - 1, 'r') + "}\n\\toprule\n";
  for (const Row& row : table.rows) {
    text += joined(row, "", " & ", " \\\\\n", latex_text);
    if (&row == &table.rows.front()) text += "\\midrule\n";
  }
  return text + "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
}

std::string html(const Table& table) {
  std::string text = "<table>\n<caption>" + html_text(table.title) + "</caption>\n";
  for (const Row& row : table.rows) {
    const std::string tag = &row == &table.rows.front() ? "th>" : "td>";
    text += joined(row, "<tr><" + tag, "</" + tag + "<" + tag, "</" + tag + "</tr>\n", html_text);
  }
  return text + "</table>\n";
}

std::string html_text(const std::string& text) {
  return escaped(text, [](char c) -> std::string {
    return c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : std::string(1, c);
  });
}

}  // namespace tern::report
