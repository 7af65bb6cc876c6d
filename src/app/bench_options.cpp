// The options, mechanisms and outputs that the subcommands of tern bench share.
#include <algorithm>
#include <set>

#include "app/bench.h"
#include "io/atomic_file.h"
#include "tern/logging.h"
#include "training/run_folder.h"

namespace tern::app {
namespace {

/// The section that variants set keys of, under the names that configurations give them.
struct ModelSection {
  ModelConfig model;
  void fields(Fields& f) { f("model", model, "the encoder"); }
};

const std::string variant_form = "NAME=KIND or NAME=KIND:KEY=VALUE,KEY=VALUE";

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

/// "" for a text that parse_variant() takes, else what is wrong with it.
std::string check_variant(const std::string& text) {
  const std::size_t name_end = text.find('='), kind_end = text.find(':');
  const bool has_settings = kind_end != std::string::npos;
  if (name_end == std::string::npos || name_end == 0 || (has_settings && kind_end < name_end + 2) ||
      name_end + 1 == text.size())
    return "a variant must be " + variant_form + ", got \"" + text + "\"";
  if (!has_settings) return "";
  for (const std::string& setting : split(text.substr(kind_end + 1), ','))
    if (setting.find('=') == std::string::npos || setting.front() == '=')
      return "a variant must be " + variant_form + ", got the setting \"" + setting + "\"";
  return "";
}

Variant parse_variant(const std::string& text) {
  const std::size_t name_end = text.find('=');
  const std::string rest = text.substr(name_end + 1);
  const std::size_t kind_end = rest.find(':');
  Variant variant{text.substr(0, name_end), rest.substr(0, kind_end), {}};
  if (kind_end != std::string::npos) variant.settings = split(rest.substr(kind_end + 1), ',');
  return variant;
}

RunDevice device_choice(const std::string& word) {
  return word == "cuda" ? RunDevice::cuda : word == "cpu" ? RunDevice::cpu : RunDevice::automatic;
}

}  // namespace

void add_variant_options(CLI::App& command, VariantOptions& options, const std::string& fallback) {
  command
      .add_option(
          "--kinds", options.kinds,
          "mechanisms with their defaults, separated by commas, or all (tern list attention names them; "
          "without --kinds and --variant: " +
              fallback + ")")
      ->delimiter(',');
  command
      .add_option("--variant", options.variants,
                  "a mechanism with settings: NAME=KIND:KEY=VALUE,KEY=VALUE, such as "
                  "yoso-16=yoso:hashes=16 (repeatable)")
      ->check(check_variant)
      ->allow_extra_args(false);
}

std::vector<Variant> chosen_variants(const VariantOptions& options, const std::vector<Variant>& fallback) {
  std::vector<Variant> chosen;
  for (const std::string& kind : options.kinds) {
    if (kind != "all") chosen.push_back({kind, kind, {}});
    for (const AttentionKind& known : attention_kinds())
      if (kind == "all") chosen.push_back({std::string(known.name), std::string(known.name), {}});
  }
  for (const std::string& text : options.variants) chosen.push_back(parse_variant(text));
  if (chosen.empty()) return fallback;
  std::set<std::string> names;
  for (const Variant& variant : chosen) {
    require(names.insert(variant.name).second, "bench: names must differ, got {} twice; rename a --variant",
            variant.name);
    with_context([&] { return "the mechanism " + variant.name; }, [&] { with_variant({}, variant); });
  }
  return chosen;
}

ModelConfig with_variant(const ModelConfig& model, const Variant& variant,
                         const std::vector<std::string>& overrides) {
  ModelSection section{model};
  std::vector<std::string> all{"model.attention.kind=" + variant.kind};
  for (const std::string& setting : variant.settings) all.push_back("model.attention." + setting);
  all.insert(all.end(), overrides.begin(), overrides.end());
  config::load_text(section, "{}", "bench", all);
  return section.model;
}

void add_place_options(CLI::App& command, PlaceOptions& options) {
  command.add_option("--device", options.device, "auto (a GPU where there is one), cuda or cpu")
      ->check(CLI::IsMember({"auto", "cuda", "cpu"}))
      ->capture_default_str();
  command
      .add_option("--dtype", options.dtype,
                  "auto (bfloat16 on a GPU, float32 on the CPU), float32, tf32 or bfloat16")
      ->check(CLI::IsMember({"auto", "float32", "tf32", "bfloat16"}))
      ->capture_default_str();
  command.add_option("--threads", options.threads, "CPU threads; 0 means one for each core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_flag("--deterministic", options.is_deterministic, "no atomic additions on a GPU");
}

void add_repetition_options(CLI::App& command, Repetitions& repetitions) {
  command.add_option("--repetitions", repetitions.most, "timed calls of each case")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command.add_option("--seconds", repetitions.seconds, "time after which no further call of a case begins")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
}

void add_output_options(CLI::App& command, std::filesystem::path& plot, bool& as_json) {
  command.add_option("--plot", plot, "also write time against length to this SVG file");
  command.add_flag("--json", as_json, "print JSON Lines: the environment, then one line for each case");
}

std::string Place::text() const {
  if (device.type == DeviceType::cpu) return format_text("the CPU, {} threads", tern::threads());
  const std::string all = cuda_description();
  return all.substr(0, all.find(','));
}

Place prepared_place(const PlaceOptions& options) {
  set_threads(options.threads);
  RunConfig run;
  run.device = device_choice(options.device);
  run.device = resolved(run).device;
  require(run.device != RunDevice::cuda || cuda_devices() > 0,
          "--device: cuda needs a GPU: {}; choose --device cpu", cuda_description());
  run.precision = value_of<RunPrecision>(options.dtype);
  require(run.device == RunDevice::cuda || run.precision == RunPrecision::automatic ||
              run.precision == RunPrecision::float32,
          "--dtype: must be float32 on the CPU, got {}; leave it out", options.dtype);
  run = resolved(run);
  const Place place{device_of(run), run.precision};
  set_cuda_options({options.is_deterministic, place.precision == RunPrecision::tf32});
  synchronize(place.device);  // throws where this program cannot use it
  return place;
}

std::string refusal(const Error& error) {
  if (error.code() == ExitCode::internal) throw error;
  const std::string text = error.what();
  return text.substr(0, std::min(text.find('\n'), text.find("; ")));
}

void require_some_success(const std::vector<io::Json>& rows) {
  for (const io::Json& row : rows)
    if (!row.contains("error")) return;
  ensure(!rows.empty(), "bench: no case was tried");
  throw_error(ExitCode::failed, "bench: none of {} cases could be timed; the first: {}", rows.size(),
              rows.front()["error"].get<std::string>());
}

std::string number_text(const io::Json& number) {
  if (number.is_null()) return "-";
  const double value = number.get<double>();
  return fixed_text(value, value < 1 ? 4 : value < 100 ? 3 : 1);
}

std::string errors_text(const std::vector<io::Json>& rows) {
  std::string text;
  for (const io::Json& row : rows)
    if (row.contains("error"))
      text += format_text("{}, n = {}: {}\n", row["name"].get<std::string>(), row["length"].get<std::int64_t>(),
                          row["error"].get<std::string>());
  return text.empty() ? text : "\n" + text;
}

void print_json_line(const io::Json& row) {
  print(io::dump_json(row) + "\n");
  std::fflush(stdout);
}

io::Json environment_line() { return {{"environment", environment_json()}}; }

void check_plot(const std::filesystem::path& file) {
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (!std::filesystem::is_directory(folder) || std::filesystem::is_directory(file))
    throw_error(ExitCode::cannot_create, "--plot: must name a file in a folder that is there, got {}", file);
}

void write_plot(const std::filesystem::path& file, const std::string& title, const std::string& y_label,
                std::vector<io::Series> series) {
  io::Plot plot{.title = title,
                .x_label = "tokens of a sequence",
                .y_label = y_label,
                .log_x = true,
                .log_y = true,
                .series = std::move(series)};
  io::write_file(file, io::svg(plot));
  logging::info("bench", "plot written to {}", file);
}

}  // namespace tern::app
