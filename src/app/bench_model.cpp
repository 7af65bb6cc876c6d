// tern bench model: the efficiency experiment published with YOSO (Zeng et al. 2021, arXiv 2111.09714):
// time and memory for one instance of a six-layer encoder with shared weights, against the length.
#include <algorithm>
#include <map>
#include <optional>

#include "app/bench.h"
#include "app/bench_inputs.h"
#include "app/experiment_options.h"
#include "core/accumulate.h"
#include "tern/logging.h"
#include "tern/ops.h"

namespace tern::app {
namespace {

constexpr std::int64_t vocabulary = 512, classes = 10;

struct ModelOptions {
  VariantOptions variants;
  PlaceOptions place;
  Repetitions repetitions{10, 60};
  std::vector<std::int64_t> lengths{128, 256, 512, 1024, 2048, 4096};
  std::string batch = "both";
  std::int64_t largest_batch = 0;
  std::uint64_t seed = 1;
  std::vector<std::string> overrides;
  std::filesystem::path plot;
  bool as_json = false;
};

ModelConfig protocol() {
  ModelConfig model;
  model.layers = 6;
  model.width = 256;
  model.heads = 4;
  model.hidden_width = 1024;
  model.head_width = 1024;
  model.dropout = 0.1;
  model.pooling = Pooling::mean;
  model.shared_layers = true;
  return model;
}

/// The protocol's methods, as far as they are built in.
std::vector<Variant> protocol_variants() {
  return {{"softmax", "softmax", {}},
          {"yoso-32", "yoso", {"hashes=32"}},
          {"yoso-16", "yoso", {"hashes=16"}},
          {"yoso-32-conv", "yoso", {"hashes=32", "conv_window=33"}},
          {"yoso-16-conv", "yoso", {"hashes=16", "conv_window=33"}}};
}

/// A batch of random ids; every sequence has `length` tokens.
struct RandomBatch {
  Tensor tokens, labels;
  SequenceLayout layout;
};
RandomBatch random_batch(std::int64_t batch, std::int64_t length, std::uint64_t seed, Device device) {
  static constexpr std::uint32_t step = 0;
  const RandomStream stream{stream_key(seed, "bench.ids"), &step};
  std::vector<std::int32_t> tokens, labels;
  for (std::int64_t s = 0; s < batch; ++s) {
    for (std::int64_t i = 0; i < length; ++i)
      tokens.push_back(static_cast<std::int32_t>(stream.words(s, static_cast<std::uint64_t>(i)).word[0] %
                                                 std::uint32_t{vocabulary}));
    labels.push_back(static_cast<std::int32_t>(s % classes));
  }
  return {from_vector(tokens, {batch * length}, device), from_vector(labels, {batch}, device),
          equal_sequences(batch, length, device)};
}

/// The encoder with its parameters and gradients; no optimizer.
class TimedModel {
 public:
  TimedModel(const ModelConfig& config, std::int64_t length, const Place& place, std::uint64_t seed)
      : before_(live_bytes(place.device)),
        device_(place.device),
        seed_(seed),
        length_(length),
        state_(place.device),
        store_(seed, state_.step(), place.dtype(), place.device),
        model_(Scope(store_), config, {vocabulary, length, classes, false},
               [&config](const Scope& scope, const AttentionShape& shape) {
                 return find_attention_kind(config.attention.kind()).build(config.attention, scope, shape);
               }) {
    store_.flatten();
  }

  /// Forward and backward passes over one batch. Throws what they throw.
  Timing time(std::int64_t batch, const Repetitions& repetitions) {
    const RandomBatch data = random_batch(batch, length_, seed_, device_);
    const std::int64_t held = live_bytes(device_) - before_;
    Timing timing = time_calls(device_, repetitions, [&] {
      clear(store_.gradients());
      backward(cross_entropy(model_(data.tokens, data.layout, true), data.labels, state_.score()));
    });
    timing.peak_bytes += held;
    return timing;
  }

  /// The largest power of two, up to `limit`, for which memory suffices; 0 where one instance is too much.
  std::int64_t largest_batch(std::int64_t limit) {
    std::int64_t largest = 0;
    for (std::int64_t batch = 1; batch <= limit && fits(batch); batch *= 2) largest = batch;
    return largest;
  }

 private:
  bool fits(std::int64_t batch) {
    try {
      time(batch, {0, 0});
      return true;
    } catch (const OutOfMemory&) {
      return false;
    }
  }

  std::int64_t before_;
  Device device_;
  std::uint64_t seed_;
  std::int64_t length_;
  StepMemory state_;
  ParameterStore store_;
  Model model_;
};

/// One mechanism at one length.
struct Case {
  Variant variant;
  std::int64_t length = 0;
  std::int64_t batch = 0;  ///< the largest that fits
  std::string error{};
  std::optional<Timing> timing{};  ///< at that batch
  std::string path{};
};

class ModelBench {
 public:
  ModelBench(const ModelOptions& options, const Place& place) : options_(options), place_(place) {
    const bool is_gpu = place.device.type == DeviceType::cuda;
    limit_ = options.largest_batch > 0 ? options.largest_batch : is_gpu ? 65536 : 4;
  }

  /// All rows of one length, each printed at once where JSON is asked for.
  void run(const std::vector<Variant>& variants, std::int64_t length) {
    std::vector<Case> cases;
    for (const Variant& variant : variants) {
      cases.push_back(own_case(variant, length));
      if (options_.batch != "same") add_row(cases.back(), "own");
    }
    if (options_.batch == "own") return;
    std::int64_t batch = 0;
    for (const Case& each : cases)
      if (each.batch > 0) batch = batch == 0 ? each.batch : std::min(batch, each.batch);
    for (const Case& each : cases) add_row(same_case(each, batch), "same");
  }

  const std::vector<io::Json>& rows() const { return rows_; }

 private:
  TimedModel model_of(const Case& each) const {
    return {with_variant(protocol(), each.variant, options_.overrides), each.length, place_, options_.seed};
  }

  /// Searches the largest batch and times it, or says why not.
  Case own_case(const Variant& variant, std::int64_t length) const {
    Case found{variant, length};
    try {
      TimedModel model = model_of(found);
      found.batch = model.largest_batch(limit_);
      if (found.batch == 0) throw_error(ExitCode::failed, "out of memory with a batch of one");
      if (options_.batch != "same") time_case(model, found);
    } catch (const Error& error) {
      found.error = refusal(error);
    }
    return found;
  }

  /// The same at another batch; what was timed there already is taken over.
  Case same_case(const Case& own, std::int64_t batch) const {
    if (!own.error.empty() || (own.timing && own.batch == batch)) return own;
    Case found{own.variant, own.length, batch};
    try {
      TimedModel model = model_of(found);
      time_case(model, found);
    } catch (const Error& error) {
      found.error = refusal(error);
    }
    return found;
  }

  void time_case(TimedModel& model, Case& found) const {
    take_path(place_.device);  // what ran before is not this case's
    found.timing = model.time(found.batch, options_.repetitions);
    found.path = take_path(place_.device);
  }

  void add_row(const Case& found, const char* mode) {
    io::Json row{{"mode", mode},
                 {"name", found.variant.name},
                 {"kind", found.variant.kind},
                 {"settings", found.variant.settings},
                 {"length", found.length},
                 {"batch", found.batch},
                 {"dtype", place_.dtype_name()},
                 {"device", place_.device_name()},
                 {"seed", options_.seed},
                 {"ms_per_instance", nullptr},
                 {"ms_deviation", nullptr},
                 {"mib_per_instance", nullptr},
                 {"repetitions", 0},
                 {"path", found.path}};
    if (found.timing) {
      const auto batch = static_cast<double>(found.batch);
      row["ms_per_instance"] = found.timing->mean() / batch;
      row["ms_deviation"] = found.timing->deviation() / batch;
      row["mib_per_instance"] = static_cast<double>(found.timing->peak_bytes) / batch / (1 << 20);
      row["repetitions"] = found.timing->milliseconds.size();
    }
    if (!found.error.empty()) row["error"] = found.error;
    if (options_.as_json) print_json_line(row);
    logging::info("bench", "{}, n = {}, {} batch {}: {} ms, {} MiB an instance", found.variant.name,
                  found.length, mode, found.batch, number_text(row["ms_per_instance"]),
                  number_text(row["mib_per_instance"]));
    rows_.push_back(std::move(row));
  }

  const ModelOptions& options_;
  Place place_;
  std::int64_t limit_ = 0;
  std::vector<io::Json> rows_;
};

std::string table_of(const std::vector<io::Json>& rows) {
  std::vector<Row> table{
      {"attention", "n", "mode", "batch", "ms an instance", "+-", "MiB an instance", "path"}};
  for (const io::Json& row : rows) {
    const std::string path = row["path"].get<std::string>();
    table.push_back({row["name"].get<std::string>(), thousands_text(row["length"].get<std::int64_t>()),
                     row["mode"].get<std::string>(), thousands_text(row["batch"].get<std::int64_t>()),
                     number_text(row["ms_per_instance"]), number_text(row["ms_deviation"]),
                     number_text(row["mib_per_instance"]), path.empty() ? "-" : path});
  }
  return table_text(table) + errors_text(rows);
}

/// Milliseconds for one instance against the length, a line for each mechanism and mode.
std::vector<io::Series> series_of(const std::vector<io::Json>& rows) {
  std::map<std::string, std::size_t> places;
  std::vector<io::Series> series;
  for (const io::Json& row : rows) {
    if (row["ms_per_instance"].is_null()) continue;
    const std::string name = row["name"].get<std::string>() + ", " + row["mode"].get<std::string>() + " batch";
    const auto [place, is_new] = places.try_emplace(name, series.size());
    if (is_new) series.push_back({name, {}});
    series[place->second].points.emplace_back(row["length"].get<double>(),
                                              row["ms_per_instance"].get<double>());
  }
  return series;
}

void bench_model(const ModelOptions& options) {
  const std::vector<Variant> variants = chosen_variants(options.variants, protocol_variants());
  const ModelConfig model = with_variant(protocol(), variants.front(), options.overrides);
  const Place place = prepared_place(options.place);
  if (!options.plot.empty()) check_plot(options.plot);
  if (options.as_json) print_json_line(environment_line());
  ModelBench bench(options, place);
  for (const std::int64_t length : options.lengths) bench.run(variants, length);
  const std::string title = format_text("{} layers{} of width {}, forward and backward, {} on {}", model.layers,
                                        model.shared_layers ? " with shared weights" : "", model.width,
                                        place.dtype_name(), place.text());
  if (!options.as_json) print(title + "\n\n" + table_of(bench.rows()));
  if (!options.plot.empty())
    write_plot(options.plot, title, "milliseconds an instance", series_of(bench.rows()));
  require_some_success(bench.rows());
}

}  // namespace

void add_bench_model(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "model",
      "time and memory of a six-layer encoder for one instance, against the length, as YOSO's authors did");
  auto options = std::make_shared<ModelOptions>();
  command->footer(
      "Examples: tern bench model\n"
      "          tern bench model --kinds softmax,yoso --lengths 1024,4096 --batch own --json");
  add_variant_options(*command, options->variants,
                      "softmax, and yoso with 32 and 16 hashes and with convolution");
  command->add_option("--lengths", options->lengths, "tokens of a sequence, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  command
      ->add_option(
          "--batch", options->batch,
          "own (each mechanism's largest power of two that fits), same (the smallest of these for all) "
          "or both")
      ->check(CLI::IsMember({"own", "same", "both"}))
      ->capture_default_str();
  command
      ->add_option("--max-batch", options->largest_batch,
                   "largest batch that is tried; 0 means 65536 on a GPU and 4 on the CPU")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{65536}))
      ->capture_default_str();
  command
      ->add_option("--set", options->overrides,
                   "change one key of the model: model.width=512 (repeatable; tern config keys lists them)")
      ->allow_extra_args(false);
  command->add_option("--seed", options->seed, "seed of weights, ids, hashing and dropout")
      ->check(check_seed)
      ->capture_default_str();
  add_place_options(*command, options->place);
  add_repetition_options(*command, options->repetitions);
  add_output_options(*command, options->plot, options->as_json);
  command->callback([options] { bench_model(*options); });
}

}  // namespace tern::app
