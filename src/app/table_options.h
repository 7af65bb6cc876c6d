// The arguments that commands on tables (io/table.h) share.
#pragma once

#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "io/table.h"

namespace tern::app {

/// An option whose value is tsv or jsonl.
inline CLI::Option* add_format_option(CLI::App& command, const std::string& flag,
                                      std::optional<io::TableFormat>& format, const std::string& meaning) {
  const auto choose = [&format](const std::string& word) {
    format = word == "tsv" ? io::TableFormat::tsv : io::TableFormat::json_lines;
  };
  return command.add_option_function<std::string>(flag, choose, meaning)
      ->check(CLI::IsMember({"tsv", "jsonl"}));
}

}  // namespace tern::app
