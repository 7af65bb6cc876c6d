// What the subcommands of tern bench share: mechanisms by name, the device, times and memory.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "app/output.h"
#include "io/plot.h"
#include "tern/experiment.h"

namespace tern::app {

void add_bench_attention(CLI::App& bench);
void add_bench_model(CLI::App& bench);
void add_bench_error(CLI::App& bench);

/// A mechanism under the name that rows and legends give it, with settings such as "hashes=16".
struct Variant {
  std::string name, kind;
  std::vector<std::string> settings;
  bool operator==(const Variant&) const = default;
};

struct VariantOptions {
  std::vector<std::string> kinds, variants;
};
/// --kinds and --variant; `fallback` says in words what runs without either.
void add_variant_options(CLI::App& command, VariantOptions& options, const std::string& fallback);
/// The kinds, then the variants; `fallback` where neither is given. Throws Error(bad_config) for an unknown
/// kind or key, Error(failed) where two share a name.
std::vector<Variant> chosen_variants(const VariantOptions& options, const std::vector<Variant>& fallback);
/// `model` with the mechanism of `variant`, and then `overrides` such as "model.width=64".
ModelConfig with_variant(const ModelConfig& model, const Variant& variant,
                         const std::vector<std::string>& overrides = {});

struct PlaceOptions {
  std::string device = "auto", dtype = "auto";
  int threads = 0;
  bool is_deterministic = false;
};
void add_place_options(CLI::App& command, PlaceOptions& options);
/// Where a benchmark computes.
struct Place {
  Device device;
  RunPrecision precision = RunPrecision::float32;  ///< not automatic
  DType dtype() const { return model_type(precision); }
  std::string dtype_name() const { return std::string(name_of(precision)); }
  /// "the CPU, 8 threads", or the GPU's name.
  std::string text() const;
  std::string device_name() const { return device.type == DeviceType::cuda ? "cuda" : "cpu"; }
};
/// The place, once it is known to work, with the options of its kernels and its threads set. Throws
/// Error(failed) where it is not there or lacks the type.
Place prepared_place(const PlaceOptions& options);

/// Bytes of tensors and work areas on the device, now and at most since reset_peak_bytes(). On the CPU the
/// tensors alone.
std::int64_t live_bytes(Device device);
std::int64_t peak_bytes(Device device);
void reset_peak_bytes(Device device);

/// What repeated calls took.
struct Timing {
  std::vector<double> milliseconds;  ///< of each call
  std::int64_t peak_bytes = 0;       ///< most memory beyond what was taken before the first call
  double median() const;
  double mean() const;
  double deviation() const;  ///< of the sample; 0 for one call
};
struct Repetitions {
  int most = 20;        ///< 0: the untimed call alone
  double seconds = 10;  ///< after these no further call begins
};
void add_repetition_options(CLI::App& command, Repetitions& repetitions);
/// Calls `body`, which must do the same work each time: first untimed, then timed. On a GPU later calls are
/// launches of one captured graph, as in training; device events give the times.
Timing time_calls(Device device, const Repetitions& repetitions, const std::function<void()>& body);

/// The kernels that ran since the last call, as they report themselves ("exact attention: mma.sync"), or the
/// instruction set on the CPU; empty where a GPU's kernels report nothing.
std::string take_path(Device device);

/// What to say of a case that failed: the error without its advice, which is for training. Errors that are ours
/// are thrown on.
std::string refusal(const Error& error);
/// Throws Error(failed) where no row is without "error".
void require_some_success(const std::vector<io::Json>& rows);
/// "-" for null, else a few digits.
std::string number_text(const io::Json& number);
/// The errors of the rows, a line each, below a table.
std::string errors_text(const std::vector<io::Json>& rows);

/// Prints one row as JSON, at once: a case may take long.
void print_json_line(const io::Json& row);
/// --plot and --json of the studies of time.
void add_output_options(CLI::App& command, std::filesystem::path& plot, bool& as_json);
/// {"environment": ...}: the first line of every output.
io::Json environment_line();
/// To be called before the work: throws Error(cannot_create) where `file` cannot become a file.
void check_plot(const std::filesystem::path& file);
/// One line for each series, both axes logarithmic. Throws Error(cannot_create) or Error(io_error).
void write_plot(const std::filesystem::path& file, const std::string& title, const std::string& y_label,
                std::vector<io::Series> series);

}  // namespace tern::app
