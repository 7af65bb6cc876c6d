// tern doctor: what this machine offers, and whether the program computes correctly on it.
#include <cmath>

#include "app/commands.h"
#include "app/output.h"
#include "base/blas.h"
#include "base/host_memory.h"
#include "io/atomic_file.h"
#include "tern/build_info.h"
#include "tern/device.h"
#include "tern/ops.h"
#include "training/run_folder.h"

namespace tern::app {
namespace {

constexpr double gibibyte = 1024.0 * 1024 * 1024;

enum class State { ok, warning, broken };
constexpr std::array state_names{"ok", "warning", "broken"};

struct Finding {
  State state;
  std::string subject, text;
};

Finding check_instruction_set() {
  const bool is_old = cpu_isa() == Isa::v2;
  return {is_old ? State::warning : State::ok, "instruction set",
          "x86-64-" + std::string(name(cpu_isa())) +
              (is_old ? ": without AVX2 training is several times slower" : "")};
}

Finding check_threads(std::int64_t cores) {
  const bool is_more = threads() > cores;
  return {is_more ? State::warning : State::ok, "threads",
          format_text("{} of {} cores{}", threads(), cores,
                      is_more ? ": more threads than cores slow each other" : "")};
}

Finding check_memory() {
  const auto bytes = static_cast<double>(available_memory());
  const bool is_little = bytes < 2 * gibibyte;
  return {is_little ? State::warning : State::ok, "memory",
          bytes_text(bytes) + " available" + (is_little ? ": long sequences may need more" : "")};
}

Finding check_disk(const std::filesystem::path& runs) {
  const auto bytes = static_cast<double>(io::free_bytes(runs));
  const bool is_closed = !io::is_writable(runs), is_little = bytes < gibibyte;
  return {is_closed || is_little ? State::warning : State::ok, "disk",
          bytes_text(bytes) + " free for " + runs.string() +
              (is_closed   ? ": not writable, choose another folder for runs with --out"
               : is_little ? ": checkpoints may not fit"
                           : "")};
}

Finding check_blas(const std::string& description) {
  const bool is_weak = cpu_isa() == Isa::v4 && description.find("Haswell") != std::string::npos;
  return {is_weak ? State::warning : State::ok, "BLAS",
          description + (is_weak ? ": AVX2 kernels on an AVX-512 processor; unset OPENBLAS_CORETYPE" : "")};
}

Finding compare(const char* subject, const Tensor& result, const std::vector<double>& expected) {
  const std::vector<double> got = result.to_vector<double>();
  double error = got.size() == expected.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i)
    error = std::max(error, std::abs(got[i] - expected[i]));
  const bool is_right = error < 1e-5;  // also false for NaN
  return {is_right ? State::ok : State::broken, subject,
          is_right ? "as expected" : format_text("differs from the expected result by {}", error)};
}

/// The GPU, or why none is used. A build without CUDA on a machine without a GPU is in order.
Finding check_cuda() {
  if (cuda_devices() == 0) return {State::ok, "CUDA", cuda_description()};
  synchronize({DeviceType::cuda, 0});
  return {State::ok, "CUDA", cuda_description()};
}

Finding check_product(const char* subject, Device device) {
  const Tensor a = from_vector(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}, device);
  const Tensor b = from_vector(std::vector<float>{1, 0, 2, 1, 0, 3}, {3, 2}, device);
  return compare(subject, matmul(a, b), {5, 11, 14, 23});
}

/// Two tokens of width 1 with q k = [[0, 0], [0, 1]] and values 0 and 1: weights 1/2 and e / (1 + e).
Finding check_attention(const char* subject, Device device) {
  const SequenceLayout layout = make_layout({0, 2}, {0, 1}, {0}, 2, device);
  const Tensor q = from_vector(std::vector<float>{0, 1}, {2, 1, 1}, device);
  return compare(subject, softmax_attention(q, q, q, layout, 1, {}),
                 {0.5, std::exp(1.0) / (1 + std::exp(1.0))});
}

/// A check that fails is a finding, not the end of the report.
Finding guarded(const char* subject, const std::function<Finding()>& check) {
  try {
    return check();
  } catch (const Error& error) {
    return {State::broken, subject, error.what()};
  }
}

std::vector<Finding> examine(const std::filesystem::path& runs) {
  const io::Json environment = environment_json();
  const auto text = [&](const char* key) { return environment[key].get<std::string>(); };
  std::vector<Finding> findings{{State::ok, "tern", text("tern") + ", commit " + text("commit")},
                                {State::ok, "compiler", text("compiler")},
                                {State::ok, "system", text("system")},
                                {State::ok, "processor", text("processor")},
                                check_instruction_set(),
                                check_threads(environment["cores"].get<std::int64_t>()),
                                check_memory(),
                                check_blas(text("blas")),
                                guarded("CUDA", check_cuda),
                                guarded("disk", [&] { return check_disk(runs); }),
                                guarded("matrix product", [] { return check_product("matrix product", {}); }),
                                guarded("attention", [] { return check_attention("attention", {}); })};
  if (cuda_devices() > 0) {
    constexpr Device gpu{DeviceType::cuda, 0};
    findings.push_back(
        guarded("matrix product, CUDA", [] { return check_product("matrix product, CUDA", gpu); }));
    findings.push_back(guarded("attention, CUDA", [] { return check_attention("attention, CUDA", gpu); }));
  }
  return findings;
}

void report(const std::filesystem::path& runs, bool as_json) {
  blas::reserve(threads());
  const std::vector<Finding> findings = examine(runs);
  io::Json all = io::Json::array();
  std::vector<Row> rows;
  std::size_t broken = 0;
  for (const Finding& finding : findings) {
    const std::string state = state_names[static_cast<std::size_t>(finding.state)];
    all.push_back({{"subject", finding.subject}, {"state", state}, {"text", finding.text}});
    rows.push_back({state, finding.subject, finding.text});
    broken += finding.state == State::broken ? 1 : 0;
  }
  if (as_json)
    print_json(all);
  else
    print(table_text(rows));
  if (broken > 0) throw_error(ExitCode::failed, "doctor: {} of {} checks failed", broken, findings.size());
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("doctor", "describe this machine and test the program on it");
  auto runs = std::make_shared<std::filesystem::path>("runs");
  auto as_json = std::make_shared<bool>(false);
  command->footer("Example: tern doctor");
  command->add_option("--out", *runs, "folder that will hold runs")->capture_default_str();
  command->add_flag("--json", *as_json, "print JSON");
  command->callback([=] { report(*runs, *as_json); });
}

}  // namespace tern::app
