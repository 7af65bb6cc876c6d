// tern bench error
#include <algorithm>
#include <array>
#include <cmath>

#include "app/bench.h"
#include "app/bench_inputs.h"
#include "app/error_study.h"
#include "app/layer_rows.h"
#include "io/atomic_file.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

struct ErrorOptions {
  LayerSource source;  ///< no path: drawn rows
  std::string input = "random", gradient = "surrogate";
  std::vector<std::int64_t> lengths;
  std::vector<int> hashes{1, 2, 4, 8, 16, 32, 64, 128};
  std::vector<std::string> families{"gaussian", "interleaved", "hadamard"};
  std::int64_t heads = 2, head_width = 64;
  int bits = 0, seeds = 20;
  PlaceOptions place;
  bool as_json = false;
  std::string plot;
};

const std::vector<std::int64_t> usual_lengths{64, 256, 1024, 4096};

constexpr std::array families{EnumName{HashFamily::gaussian, "gaussian"},
                              EnumName{HashFamily::interleaved, "interleaved"},
                              EnumName{HashFamily::hadamard, "hadamard"}};
constexpr std::array gradients{EnumName{BernoulliGradient::surrogate, "surrogate"},
                               EnumName{BernoulliGradient::exact, "exact"}};

struct Figure {
  const char* name;
  Spread ErrorFigures::*spread;
};
constexpr std::array figures{Figure{"angle", &ErrorFigures::angle},
                             Figure{"empty_rows", &ErrorFigures::empty_rows},
                             Figure{"weights_error", &ErrorFigures::weights_error},
                             Figure{"weights_scale", &ErrorFigures::weights_scale},
                             Figure{"output_error", &ErrorFigures::output_error},
                             Figure{"dq_error", &ErrorFigures::dq_error},
                             Figure{"dk_error", &ErrorFigures::dk_error},
                             Figure{"dv_error", &ErrorFigures::dv_error}};

template <class Names>
auto value_named(const Names& names, const std::string& name) {
  return std::find_if(names.begin(), names.end(), [&](const auto& known) { return known.name == name; })->value;
}

template <class Names>
CLI::IsMember one_of_names(const Names& names) {
  std::vector<std::string> words;
  for (const auto& known : names) words.emplace_back(known.name);
  return CLI::IsMember(words);
}

/// One set of rows, and what it is called.
struct Input {
  StudyRows rows;
  std::int64_t length = 0;
  int bits = 0;
  io::Json facts;
};

struct ErrorRow {
  std::string family;
  std::int64_t length = 0;
  int bits = 0, hashes = 0;
  ErrorFigures figures;
};

int bits_for(const ErrorOptions& options, std::int64_t length) {
  if (options.bits > 0) return options.bits;
  return std::clamp(static_cast<int>(std::ceil(std::log2(static_cast<double>(length)))), 1, 16);
}

Input drawn_input(const ErrorOptions& options, const Place& place, std::int64_t length) {
  const RowLaw law = value_of<RowLaw>(options.input);
  const AttentionRows rows =
      attention_rows(law, {length, options.heads, options.head_width}, 0, place.dtype(), place.device);
  return {{unit_rows(rows.query), unit_rows(rows.key), contiguous(rows.value), rows.gradient,
           equal_sequences(1, length, place.device)},
          length,
          bits_for(options, length),
          {{"input", options.input}}};
}

Tensor placed(const Tensor& x, const Place& place) {
  const Tensor out = empty(x.shape(), place.dtype(), place.device);
  copy(x, out);
  return out;
}

/// `length` 0: whole sequences, with the bits that the model takes for them.
Input layer_input(const ErrorOptions& options, const Place& place, const LayerRows& whole,
                  std::int64_t length) {
  const LayerRows rows = length == 0 ? whole : first_rows(whole, length);
  std::vector<std::int32_t> position;
  for (std::size_t s = 0; s + 1 < rows.offsets.size(); ++s)
    for (std::int32_t i = rows.offsets[s]; i < rows.offsets[s + 1]; ++i)
      position.push_back(i - rows.offsets[s]);
  const SequenceLayout layout =
      make_layout(rows.offsets, position, rows.sample, rows.padded_length, place.device);
  const RowShape shape{rows.value.size(0), rows.value.size(1), rows.value.size(2)};
  const AttentionRows drawn = attention_rows(RowLaw::random, shape, 0, place.dtype(), place.device);
  return {{placed(unit_rows(rows.query), place), placed(unit_rows(rows.key), place), placed(rows.value, place),
           drawn.gradient, layout},
          layout.longest,
          bits_for(options, rows.padded_length),
          {{"input", "layer"},
           {"checkpoint", rows.checkpoint.string()},
           {"step", rows.step},
           {"layer", options.source.layer}}};
}

io::Json row_json(const ErrorOptions& options, const Place& place, const Input& input, const ErrorRow& row) {
  io::Json json = input.facts;
  json.update({{"hash", row.family},
               {"length", row.length},
               {"sequences", input.rows.layout.sequences()},
               {"heads", input.rows.v.size(1)},
               {"head_width", input.rows.v.size(2)},
               {"bits", row.bits},
               {"hashes", row.hashes},
               {"gradient", options.gradient},
               {"dtype", place.dtype_name()},
               {"device", place.device_name()},
               {"seeds", options.seeds}});
  for (const Figure& figure : figures) {
    const Spread spread = row.figures.*figure.spread;
    json[figure.name] = spread.mean;
    json[std::string(figure.name) + "_deviation"] = spread.deviation;
  }
  return json;
}

void print_table(const std::vector<ErrorRow>& rows) {
  std::vector<Row> lines{{"hash", "length", "bits", "hashes"}};
  for (const Figure& figure : figures) lines.front().push_back(figure.name);
  for (const ErrorRow& row : rows) {
    Row line{row.family, std::to_string(row.length), std::to_string(row.bits), std::to_string(row.hashes)};
    for (const Figure& figure : figures) line.push_back(fixed_text((row.figures.*figure.spread).mean, 4));
    lines.push_back(line);
  }
  print(table_text(lines));
}

/// The series named `name`, made at first use.
io::Series& series_named(std::vector<io::Series>& all, const std::string& name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const io::Series& series) { return series.name == name; });
  return found != all.end() ? *found : all.emplace_back(io::Series{name, {}});
}

void write_chart(const ErrorOptions& options, const std::string& ending, const io::Plot& plot) {
  const fs::path file = options.plot + "-" + ending + ".svg";
  io::write_file(file, io::svg(plot));
  logging::info("bench", "plot written to {}", file);
}

/// What an error is of: "output" for output_error; empty for other figures.
std::string subject_of(const Figure& figure) {
  const std::string_view name = figure.name, ending = "_error";
  return name.ends_with(ending) ? std::string(name.substr(0, name.size() - ending.size())) : "";
}

/// Angle by hashes for every family and length; angle by length for the first family, whose line for each
/// number of hashes would hide those of others.
void write_angle_charts(const ErrorOptions& options, const std::vector<ErrorRow>& rows) {
  const std::string title = "Sampled output against its expectation",
                    angle = "angle between their rows (radians)", first = options.families.front();
  io::Plot by_hashes{title, "hashes", angle, true, true, {}},
      by_length{title + " (" + first + ")", "tokens of a sequence", angle, true, true, {}};
  for (const ErrorRow& row : rows) {
    series_named(by_hashes.series, format_text("{}, n = {}", row.family, row.length))
        .points.emplace_back(row.hashes, row.figures.angle.mean);
    if (row.family == first)
      series_named(by_length.series, format_text("hashes = {}", row.hashes))
          .points.emplace_back(row.length, row.figures.angle.mean);
  }
  write_chart(options, "angle", by_hashes);
  write_chart(options, "length", by_length);
}

/// All errors of the first family and the output's of the others, at the longest length.
void write_error_chart(const ErrorOptions& options, const std::vector<ErrorRow>& rows) {
  std::int64_t longest = 0;
  for (const ErrorRow& row : rows) longest = std::max(longest, row.length);
  io::Plot plot{format_text("Errors of the sampled form at {} tokens", longest),
                "hashes",
                "Frobenius norm over that of the expected",
                true,
                true,
                {}};
  for (const ErrorRow& row : rows)
    for (const Figure& figure : figures) {
      const std::string subject = subject_of(figure);
      if (row.length != longest || subject.empty()) continue;
      if (row.family != options.families.front() && subject != "output") continue;
      series_named(plot.series, row.family + ", " + subject)
          .points.emplace_back(row.hashes, (row.figures.*figure.spread).mean);
    }
  write_chart(options, "error", plot);
}

void measure(const ErrorOptions& options, const Place& place, const Input& input, std::vector<ErrorRow>& rows) {
  const ErrorStudy study(input.rows, input.bits, value_named(gradients, options.gradient));
  for (const std::string& family : options.families)
    for (const int hashes : options.hashes) {
      rows.push_back({family, input.length, input.bits, hashes,
                      study.measure(value_named(families, family), hashes, options.seeds)});
      if (options.as_json) print_json_line(row_json(options, place, input, rows.back()));
    }
}

/// Before the work, not after it.
void require_folder_of_plots(const ErrorOptions& options) {
  if (options.plot.empty()) return;
  const fs::path folder = fs::absolute(options.plot).parent_path();
  if (!fs::is_directory(folder))
    throw_error(ExitCode::cannot_create, "--plot: {} must be a folder; make it first", folder);
}

void run_study(const ErrorOptions& options) {
  require_folder_of_plots(options);
  const Place place = prepared_place(options.place);
  if (options.as_json) print_json_line(environment_line());
  std::vector<ErrorRow> rows;
  if (options.source.path.empty()) {
    for (const std::int64_t length : options.lengths.empty() ? usual_lengths : options.lengths)
      measure(options, place, drawn_input(options, place, length), rows);
  } else {
    const LayerRows whole = layer_rows(options.source);
    for (const std::int64_t length : options.lengths.empty() ? std::vector<std::int64_t>{0} : options.lengths)
      measure(options, place, layer_input(options, place, whole, length), rows);
  }
  if (!options.as_json) print_table(rows);
  if (options.plot.empty()) return;
  write_angle_charts(options, rows);
  write_error_chart(options, rows);
}

void add_layer_options(CLI::App& command, LayerSource& source) {
  CLI::Option* const path =
      command.add_option("--checkpoint", source.path,
                         "take the rows of a trained model: a run folder, checkpoint or .safetensors file");
  command.add_option("--layer", source.layer, "which layer's queries, keys and values, from 0")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{999}))
      ->needs(path)
      ->capture_default_str();
  command.add_option("--records", source.records, "records of the run's dev split that the model reads")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{4096}))
      ->needs(path)
      ->capture_default_str();
  command
      .add_option("--set", source.overrides,
                  "override one key of the run's configuration: task.data=FOLDER (repeatable)")
      ->needs(path)
      ->allow_extra_args(false);
}

void add_input_options(CLI::App& command, ErrorOptions& options) {
  CLI::Option* const path = command.get_option("--checkpoint");
  command
      .add_option("--input", options.input,
                  "drawn queries and keys: random, mean (a common row makes cosines about 1/2) or equal-keys")
      ->check(one_of_names(enum_names(RowLaw{})))
      ->excludes(path)
      ->capture_default_str();
  command
      .add_option("--lengths", options.lengths,
                  "tokens of a sequence (default: 64,256,1024,4096; with --checkpoint whole sequences, else "
                  "their first tokens); work grows with the square")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 17));
  command.add_option("--heads", options.heads, "heads of drawn rows")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1024}))
      ->excludes(path)
      ->capture_default_str();
  command.add_option("--head-width", options.head_width, "columns of a head of drawn rows")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{256}))
      ->excludes(path)
      ->capture_default_str();
}

}  // namespace

void add_bench_error(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "error", "how far sampled YOSO attention is from its expectation, with its gradients");
  auto options = std::make_shared<ErrorOptions>();
  command->footer(
      "Examples: tern bench error --lengths 256,1024 --plot figure\n"
      "          tern bench error --checkpoint runs/listops --layer 1 --json");
  add_layer_options(*command, options->source);
  add_input_options(*command, *options);
  command->add_option("--hashes", options->hashes, "numbers of hashes")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--families", options->families, "hash families: gaussian, interleaved, hadamard")
      ->delimiter(',')
      ->check(one_of_names(families))
      ->capture_default_str();
  command->add_option("--bits", options->bits, "bits of a code; 0 means ceil(log2 of the length), at most 16")
      ->check(CLI::Range(0, 20))
      ->capture_default_str();
  command->add_option("--gradient", options->gradient, "surrogate (as published) or exact")
      ->check(one_of_names(gradients))
      ->capture_default_str();
  command->add_option("--seeds", options->seeds, "hash draws of each case: mean and standard deviation")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  add_place_options(*command, options->place);
  command->add_flag("--json", options->as_json, "print JSON Lines");
  command->add_option("--plot", options->plot, "write PREFIX-angle.svg, PREFIX-length.svg and PREFIX-error.svg")
      ->type_name("PREFIX");
  command->callback([options] { run_study(*options); });
}

}  // namespace tern::app
