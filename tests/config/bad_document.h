// Wrong configurations and where they must be reported.
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/sample_records.h"

namespace tern::sample {

struct BadDocument {
  std::string text;
  std::string place;  // "line:" or "line:column:"; empty for the file as a whole, "--set …" for overrides
  std::vector<std::string> fragments;
  std::vector<std::string> overrides = {};
};

inline const std::string task = minimal_text;

/// Message of the Error that loading `text` throws; empty if it loads.
inline std::string mistakes(const std::string& text, const std::vector<std::string>& overrides = {}) {
  ExperimentConfig record;
  try {
    config::load_text(record, text, "file.yaml", overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_config) << error.what();
    return error.what();
  }
  return "";
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  return lines;
}

inline void expect_reported(const std::vector<BadDocument>& documents) {
  ASSERT_FALSE(documents.empty());
  for (const BadDocument& document : documents) {
    const std::string message = mistakes(document.text, document.overrides);
    ASSERT_FALSE(message.empty()) << "accepted:\n" << document.text;
    const bool is_override = document.place.starts_with("--set");
    const std::string start = is_override              ? document.place
                              : document.place.empty() ? "file.yaml: "
                                                       : "file.yaml:" + document.place;
    bool is_found = false;
    for (const std::string& line : lines_of(message)) {
      bool has_all = line.starts_with(start);
      for (const std::string& fragment : document.fragments)
        has_all = has_all && line.find(fragment) != line.npos;
      is_found = is_found || has_all;
    }
    EXPECT_TRUE(is_found) << "document:\n"
                          << document.text << "\nexpected at " << start << "\ngot:\n"
                          << message;
  }
}

}  // namespace tern::sample
