// Times one attention mechanism on a GPU, forward and with its backward pass, and prints one JSON line a case.
//
//   benchmark_attention --kind softmax|expectation|sampled [--width 64] [--heads 8] [--tokens 65536] [--lengths
//   4096,...]
//                       [--dropout 0] [--hashes 32] [--deterministic] [--repetitions 20]
//
// `tokens` rows are cut into sequences of each length in turn; rows are standard normal (unit rows for the two
// forms of YOSO, bits = log2 of the length). Times are medians of device events; memory is what a call takes
// above its inputs.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>

#include <CLI/CLI.hpp>

#include "base/cuda_memory.h"
#include "base/has_cuda.h"
#include "io/json.h"
#include "tern/ops.h"
#include "training/run_folder.h"

namespace {

using namespace tern;

struct Options {
  std::string kind = "softmax";
  std::int64_t width = 64, heads = 8, tokens = 65536;
  std::vector<std::int64_t> lengths{1024, 2048, 4096, 8192};
  double dropout = 0;
  int hashes = 32, repetitions = 20;
  bool is_deterministic = false;
};

constexpr Device gpu{DeviceType::cuda, 0};

SequenceLayout layout_of(std::int64_t tokens, std::int64_t length) {
  std::vector<std::int32_t> offsets{0}, position;
  std::vector<std::int64_t> sample;
  for (std::int64_t first = 0; first < tokens; first += length) {
    for (std::int64_t i = 0; i < length; ++i) position.push_back(static_cast<std::int32_t>(i));
    offsets.push_back(static_cast<std::int32_t>(position.size()));
    sample.push_back(static_cast<std::int64_t>(sample.size()));
  }
  return make_layout(offsets, position, sample, length, gpu);
}

/// The query, key and value rows of one product, as a model has them.
std::vector<Tensor> random_rows(const Options& options, std::int64_t tokens) {
  static constexpr std::uint32_t step = 0;
  const Tensor host = empty({tokens, 3, options.heads, options.width}, DType::float32);
  fill_normal({stream_key(1, "benchmark"), &step}, 0, 0,
              std::span(host.data<float>(), static_cast<std::size_t>(host.count())));
  const Tensor rows = empty(host.shape(), DType::bfloat16, gpu);
  copy(host, rows);
  std::vector<Tensor> parts = unstack(rows, 1);
  if (options.kind != "softmax")
    for (const std::size_t part : {0, 1}) parts[part] = unit_rows(parts[part]);
  return parts;
}

/// On the tape, so that a backward pass is recorded; its gradient goes nowhere.
Tensor with_gradient(const Tensor& x) {
  static const Tensor root = leaf(zeros({}, DType::float32, gpu));
  return record("rows", x, {root}, [](const Tensor&, GradientSink&) {});
}

struct Case {
  std::vector<Tensor> rows;
  SequenceLayout layout;
  RandomStream stream;
};

Tensor attend(const Options& options, const Case& c) {
  const auto bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(c.layout.longest - 1)));
  const auto& x = c.rows;
  if (options.kind == "softmax")
    return softmax_attention(x[0], x[1], x[2], c.layout, 1 / std::sqrt(static_cast<double>(options.width)),
                             {options.dropout, c.stream});
  if (options.kind == "expectation")
    return bernoulli_expectation(x[0], x[1], x[2], c.layout, bits, BernoulliGradient::surrogate);
  return bernoulli_sample(x[0], x[1], x[2], c.layout, {HashFamily::gaussian, options.hashes, bits},
                          BernoulliGradient::surrogate, c.stream);
}

template <class Body>
double median_milliseconds(int repetitions, const Body& body) {
  std::vector<float> times;
  for (int i = 0; i < repetitions + 5; ++i) {
    DeviceEvent start, end;
    start.record(0);
    body();
    end.record(0);
    end.wait();
    if (i >= 5) times.push_back(end.since(start));
  }
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return times[static_cast<std::size_t>(repetitions / 2)];
}

void run(const Options& options, std::int64_t length) {
  const Tensor step = zeros({1}, DType::int32, gpu);
  Case c{random_rows(options, options.tokens),
         layout_of(options.tokens, length),
         {stream_key(1, "benchmark"), reinterpret_cast<const std::uint32_t*>(step.address())}};
  const double forward = median_milliseconds(options.repetitions, [&] {
    const NoGradientScope scope;
    attend(options, c);
  });
  for (Tensor& x : c.rows) x = with_gradient(x);
  const Tensor seed = random_rows(options, options.tokens)[2];
  synchronize(gpu);
  reset_device_memory_peak(0);
  const std::int64_t before = device_memory(0).live_bytes;
  const double both = median_milliseconds(options.repetitions, [&] {
    const Tensor y = attend(options, c);
    backward(std::span(&y, 1), std::span(&seed, 1));
  });
  const io::Json result{{"program", "attention"},
                        {"kind", options.kind},
                        {"length", length},
                        {"tokens", options.tokens},
                        {"heads", options.heads},
                        {"width", options.width},
                        {"heads_in_all", options.tokens / length * options.heads},
                        {"dropout", options.dropout},
                        {"hashes", options.kind == "sampled" ? options.hashes : 0},
                        {"deterministic", options.is_deterministic},
                        {"forward_ms", forward},
                        {"forward_backward_ms", both},
                        {"peak_mib", static_cast<double>(device_memory(0).peak_bytes - before) / 1048576.0},
                        {"repetitions", options.repetitions},
                        {"device", cuda_description()},
                        {"commit", environment_json()["commit"]}};
  std::printf("%s\n", io::dump_json(result).c_str());
  std::fflush(stdout);
}

void run_all(const Options& options) {
  if constexpr (has_cuda) {
    set_cuda_options({.deterministic = options.is_deterministic});
    for (const std::int64_t length : options.lengths) run(options, length);
  } else {
    throw_error(ExitCode::failed, "benchmark_attention: needs a build with CUDA");
  }
}

}  // namespace

int main(int count, char** values) {
  Options options;
  CLI::App app{"times attention on a GPU"};
  app.add_option("--kind", options.kind)->check(CLI::IsMember({"softmax", "expectation", "sampled"}));
  app.add_option("--width", options.width, "columns of a head");
  app.add_option("--heads", options.heads, "heads of each sequence");
  app.add_option("--tokens", options.tokens, "rows of the batch");
  app.add_option("--lengths", options.lengths, "tokens of each sequence")->delimiter(',');
  app.add_option("--dropout", options.dropout, "rate of the attention weights");
  app.add_option("--hashes", options.hashes, "hash tables of the sampled form");
  app.add_flag("--deterministic", options.is_deterministic, "no atomic additions");
  app.add_option("--repetitions", options.repetitions, "timed calls");
  CLI11_PARSE(app, count, values);
  try {
    run_all(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
