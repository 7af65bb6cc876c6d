// Tables as Markdown, CSV, LaTeX and HTML.
#pragma once

#include <string>
#include <vector>

namespace tern::report {

struct Table {
  std::string title;
  std::vector<std::vector<std::string>> rows;  ///< the first is the head; all have its length
};

/// The title in bold, and a table.
std::string markdown(const Table& table);
/// RFC 4180, without the title.
std::string csv(const Table& table);
/// A table environment with booktabs' rules; the title becomes the caption.
std::string latex(const Table& table);
/// A table element; the title becomes the caption.
std::string html(const Table& table);

/// Text as it must stand in HTML.
std::string html_text(const std::string& text);

}  // namespace tern::report
