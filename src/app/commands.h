// The command line, one file for each command group. Results go to stdout, messages to stderr.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace tern::app {

/// Each adds its subcommands to `app`; parsing runs the chosen one, which throws tern::Error on failure.
void add_train_command(CLI::App& app);
void add_evaluate_command(CLI::App& app);
void add_predict_command(CLI::App& app);
void add_describe_command(CLI::App& app);
void add_list_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_checkpoint_command(CLI::App& app);
void add_config_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_sweep_command(CLI::App& app);
void add_report_command(CLI::App& app);

/// Check of whole numbers; the library's own names the largest double in its message.
inline const CLI::Range not_negative(std::int64_t{0}, std::int64_t{1} << 40, "NONNEGATIVE");

/// Runs the program: parses, executes, prints errors to stderr. Returns the exit code.
int run(const std::vector<std::string>& arguments);

}  // namespace tern::app
