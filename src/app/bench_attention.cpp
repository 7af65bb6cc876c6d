// tern bench attention: mechanisms alone, as the model calls them, against the length.
#include <algorithm>
#include <optional>

#include "app/bench.h"
#include "app/bench_inputs.h"
#include "app/experiment_options.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

struct AttentionOptions {
  VariantOptions variants;
  PlaceOptions place;
  Repetitions repetitions;
  std::vector<std::int64_t> lengths{512, 1024, 2048, 4096, 8192}, head_widths{64};
  std::int64_t heads = 8, tokens = 65536;
  std::string input = "random";
  double dropout = 0;
  std::uint64_t seed = 1;
  std::filesystem::path plot;
  bool as_json = false;
};

/// Everything that is the same for all mechanisms at one length.
struct Inputs {
  RowShape shape;
  AttentionRows rows;
};

bool has_dropout(const Choice& attention) {
  Fields fields;
  attention.fields(fields);
  return std::any_of(fields.list().begin(), fields.list().end(),
                     [](const Field& field) { return field.key == "dropout"; });
}

/// The mechanism's record; its own dropout is the benchmark's unless the variant sets it.
Choice attention_config(const Variant& variant, double dropout) {
  const Choice attention = with_variant({}, variant).attention;
  const bool is_set = std::any_of(variant.settings.begin(), variant.settings.end(),
                                  [](const std::string& setting) { return setting.starts_with("dropout="); });
  if (is_set || !has_dropout(attention)) return attention;
  Variant chosen = variant;
  chosen.settings.push_back("dropout=" + std::to_string(dropout));
  return with_variant({}, chosen).attention;
}

/// A mechanism with parameters and streams of its own.
class Mechanism {
 public:
  Mechanism(const Choice& config, const AttentionShape& shape, const Place& place, std::uint64_t seed)
      : state_(place.device),
        store_(seed, state_.step(), place.dtype(), place.device),
        attention_(find_attention_kind(config.kind()).build(config, Scope(store_).child("attention"), shape)) {}
  Tensor operator()(const AttentionRows& rows, const SequenceLayout& layout) const {
    return attention_->forward({rows.query, rows.key, rows.value, layout, true});
  }

 private:
  StepMemory state_;
  ParameterStore store_;
  std::unique_ptr<Attention> attention_;
};

/// The rows on the tape, so that a backward pass reaches them; their gradients are computed and dropped.
AttentionRows taped(const AttentionRows& rows, const Tensor& root) {
  const auto on_tape = [&](const Tensor& x) {
    return record("rows", x, {root}, [](const Tensor&, GradientSink&) {});
  };
  return {on_tape(rows.query), on_tape(rows.key), on_tape(rows.value), rows.gradient};
}

/// Times the mechanism and completes `row`, or says why not.
void time_mechanism(const AttentionOptions& options, const Place& place, const Variant& variant,
                    const Inputs& inputs, std::int64_t length, io::Json& row) {
  const SequenceLayout layout = equal_sequences(inputs.shape.tokens / length, length, place.device);
  const Choice config = attention_config(variant, options.dropout);
  const Mechanism mechanism(config, {inputs.shape.heads, inputs.shape.head_width, length}, place, options.seed);
  const Timing forward = time_calls(place.device, options.repetitions, [&] {
    const NoGradientScope scope;
    mechanism(inputs.rows, layout);
  });
  row["forward_ms"] = forward.median();
  const AttentionRows rows = taped(inputs.rows, leaf(zeros({}, DType::float32, place.device)));
  const Timing both = time_calls(place.device, options.repetitions, [&] {
    const Tensor y = mechanism(rows, layout);
    backward(std::span(&y, 1), std::span(&rows.gradient, 1));
  });
  row["forward_backward_ms"] = both.median();
  row["peak_mib"] = static_cast<double>(both.peak_bytes) / (1 << 20);
  row["repetitions"] = both.milliseconds.size();
}

/// The rows for `shape`: those that are there already, or new ones.
const Inputs& provided(const AttentionOptions& options, const Place& place, const RowShape& shape,
                       std::optional<Inputs>& kept) {
  if (kept && kept->shape == shape) return *kept;
  kept.reset();  // two sets need not fit
  return kept.emplace(Inputs{shape, attention_rows(value_of<RowLaw>(options.input), shape, options.seed,
                                                   place.dtype(), place.device)});
}

io::Json case_json(const AttentionOptions& options, const Place& place, const Variant& variant,
                   const RowShape& shape, std::int64_t length) {
  return {{"name", variant.name},
          {"kind", variant.kind},
          {"settings", variant.settings},
          {"length", length},
          {"head_width", shape.head_width},
          {"heads", shape.heads},
          {"tokens", shape.tokens},
          {"dtype", place.dtype_name()},
          {"device", place.device_name()},
          {"input", options.input},
          {"dropout", options.dropout},
          {"deterministic", options.place.is_deterministic},
          {"seed", options.seed},
          {"forward_ms", nullptr},
          {"forward_backward_ms", nullptr},
          {"peak_mib", nullptr},
          {"repetitions", 0}};
}

/// A case that fails is a row with "error", not the end.
io::Json time_case(const AttentionOptions& options, const Place& place, const Variant& variant,
                   const RowShape& shape, std::int64_t length, std::optional<Inputs>& kept) {
  io::Json row = case_json(options, place, variant, shape, length);
  take_path(place.device);  // what ran before is not this case's
  try {
    time_mechanism(options, place, variant, provided(options, place, shape, kept), length, row);
  } catch (const Error& error) {
    row["error"] = refusal(error);
  }
  row["path"] = take_path(place.device);
  return row;
}

/// All cases, each printed at once where JSON is asked for. Sequences are whole, and one at least.
std::vector<io::Json> time_all(const AttentionOptions& options, const Place& place,
                               const std::vector<Variant>& variants) {
  std::vector<io::Json> rows;
  std::optional<Inputs> kept;
  const auto time_one = [&](std::int64_t head_width, std::int64_t length, const Variant& variant) {
    const std::int64_t sequences = std::max<std::int64_t>(options.tokens / length, 1);
    const RowShape shape{sequences * length, options.heads, head_width};
    const io::Json& row = rows.emplace_back(time_case(options, place, variant, shape, length, kept));
    if (options.as_json) print_json_line(row);
    logging::info("bench", "{}, n = {}, d = {}: {} ms forward, {} ms with backward", variant.name, length,
                  head_width, number_text(row["forward_ms"]), number_text(row["forward_backward_ms"]));
  };
  for (const std::int64_t head_width : options.head_widths)
    for (const std::int64_t length : options.lengths)
      for (const Variant& variant : variants) time_one(head_width, length, variant);
  return rows;
}

std::string table_of(const std::vector<io::Json>& rows) {
  std::vector<Row> table{
      {"attention", "n", "d", "sequences", "forward, ms", "with backward, ms", "peak MiB", "path"}};
  for (const io::Json& row : rows) {
    const auto integer = [&](const char* key) { return row[key].get<std::int64_t>(); };
    const std::string path = row["path"].get<std::string>();
    table.push_back({row["name"].get<std::string>(), thousands_text(integer("length")),
                     std::to_string(integer("head_width")),
                     thousands_text(integer("tokens") / integer("length")), number_text(row["forward_ms"]),
                     number_text(row["forward_backward_ms"]), number_text(row["peak_mib"]),
                     path.empty() ? "-" : path});
  }
  return table_text(table) + errors_text(rows);
}

/// Forward and backward against the length, a line for each mechanism and head width.
std::vector<io::Series> series_of(const AttentionOptions& options, const std::vector<Variant>& variants,
                                  const std::vector<io::Json>& rows) {
  std::vector<io::Series> series;
  for (const std::int64_t head_width : options.head_widths)
    for (const Variant& variant : variants) {
      io::Series line{variant.name, {}};
      if (options.head_widths.size() > 1) line.name += ", d = " + std::to_string(head_width);
      for (const io::Json& row : rows)
        if (row["name"] == variant.name && row["head_width"] == head_width &&
            !row["forward_backward_ms"].is_null())
          line.points.emplace_back(row["length"].get<double>(), row["forward_backward_ms"].get<double>());
      series.push_back(line);
    }
  return series;
}

void bench_attention(const AttentionOptions& options) {
  const std::vector<Variant> variants =
      chosen_variants(options.variants, {{"softmax", "softmax", {}}, {"yoso", "yoso", {}}});
  const Place place = prepared_place(options.place);
  if (!options.plot.empty()) check_plot(options.plot);
  if (options.as_json) print_json_line(environment_line());
  const std::vector<io::Json> rows = time_all(options, place, variants);
  const std::string title =
      format_text("{} tokens, {} heads, {} on {}, {} rows", thousands_text(options.tokens), options.heads,
                  place.dtype_name(), place.text(), options.input);
  if (!options.as_json) print(title + "\n\n" + table_of(rows));
  if (!options.plot.empty())
    write_plot(options.plot, "Attention, forward and backward: " + title, "milliseconds",
               series_of(options, variants, rows));
  require_some_success(rows);
}

}  // namespace

void add_bench_attention(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "attention", "time and memory of attention alone, forward and backward, against the length");
  auto options = std::make_shared<AttentionOptions>();
  command->footer(
      "Examples: tern bench attention --lengths 1024,4096,16384 --plot attention.svg\n"
      "          tern bench attention --kinds softmax --variant yoso-16=yoso:hashes=16 \\\n"
      "            --variant expectation=yoso:form=expectation --json");
  add_variant_options(*command, options->variants, "softmax,yoso");
  const auto add_sizes = [&](const char* name, std::vector<std::int64_t>& sizes, std::int64_t most,
                             const char* meaning) {
    command->add_option(name, sizes, meaning)
        ->delimiter(',')
        ->check(CLI::Range(std::int64_t{1}, most))
        ->capture_default_str();
  };
  add_sizes("--lengths", options->lengths, 1 << 24, "tokens of a sequence, separated by commas");
  add_sizes("--head-widths", options->head_widths, 256, "columns of a head, separated by commas");
  const auto add_size = [&](const char* name, std::int64_t& size, std::int64_t most, const char* meaning) {
    command->add_option(name, size, meaning)->check(CLI::Range(std::int64_t{1}, most))->capture_default_str();
  };
  add_size("--heads", options->heads, 65535, "heads of a sequence");
  add_size("--tokens", options->tokens, 1 << 30,
           "rows in all, cut into whole sequences; a longer sequence stands alone");
  command
      ->add_option(
          "--input", options->input,
          "rows of queries and keys: random (standard normal), mean (a common row added to all: typical "
          "cosine 0.5), equal-keys")
      ->check(CLI::IsMember({"random", "mean", "equal-keys"}))
      ->capture_default_str();
  command->add_option("--dropout", options->dropout, "dropout rate of mechanisms that have one of their own")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "seed of rows, hashing and dropout")
      ->check(check_seed)
      ->capture_default_str();
  add_place_options(*command, options->place);
  add_repetition_options(*command, options->repetitions);
  add_output_options(*command, options->plot, options->as_json);
  command->callback([options] { bench_attention(*options); });
}

}  // namespace tern::app
