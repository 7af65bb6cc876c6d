// tern bench error: what it measures, and that the laws hold which sampling must obey.
#include <cmath>
#include <numbers>
#include <numeric>
#include <sstream>

#include <gtest/gtest.h>

#include "app/bench_inputs.h"
#include "app/command.h"
#include "app/error_study.h"
#include "app/layer_rows.h"
#include "data/record_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "support/devices.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

constexpr std::int64_t heads = 2, width = 32;
constexpr int bits = 7;

app::StudyRows drawn_rows(std::int64_t length = 96, DType dtype = DType::float32, Device device = {}) {
  const app::AttentionRows rows =
      app::attention_rows(app::RowLaw::mean, {length, heads, width}, 5, dtype, device);
  return {unit_rows(rows.query), unit_rows(rows.key), contiguous(rows.value), rows.gradient,
          app::equal_sequences(1, length, device)};
}

/// Entry (i, j) of head h of p = (1 - arccos(q_i . k_j) / pi)^bits.
std::vector<double> probabilities(const app::StudyRows& rows) {
  const std::int64_t length = rows.q.size(0);
  const auto q = rows.q.to_vector<double>(), k = rows.k.to_vector<double>();
  std::vector<double> out;
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t i = 0; i < length; ++i)
      for (std::int64_t j = 0; j < length; ++j) {
        double cosine = 0;
        for (std::int64_t c = 0; c < width; ++c)
          cosine += q[static_cast<std::size_t>((i * heads + h) * width + c)] *
                    k[static_cast<std::size_t>((j * heads + h) * width + c)];
        out.push_back(std::pow(1 - std::acos(cosine) / std::numbers::pi, bits));
      }
  return out;
}

double slope(const std::vector<double>& x, const std::vector<double>& y) {
  const double x_mean = std::reduce(x.begin(), x.end()) / static_cast<double>(x.size()),
               y_mean = std::reduce(y.begin(), y.end()) / static_cast<double>(y.size());
  double products = 0, squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    products += (x[i] - x_mean) * (y[i] - y_mean);
    squares += (x[i] - x_mean) * (x[i] - x_mean);
  }
  return products / squares;
}

TEST(ErrorStudy, angles) {
  const std::vector<double> a{2, 0}, b{0, 3}, c{-1, 0}, zero{0, 0}, d{1, 1};
  EXPECT_DOUBLE_EQ(app::angle_between(a, b), std::numbers::pi / 2);
  EXPECT_DOUBLE_EQ(app::angle_between(a, c), std::numbers::pi);
  EXPECT_DOUBLE_EQ(app::angle_between(a, d), std::numbers::pi / 4);
  EXPECT_EQ(app::angle_between(a, a), 0);
  EXPECT_DOUBLE_EQ(app::angle_between(a, zero), std::numbers::pi / 2);
}

TEST(ErrorStudy, errors_fall_with_the_root_of_the_number_of_hashes) {
  for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact}) {
    const app::ErrorStudy study(drawn_rows(), bits, gradient);
    std::vector<double> hashes, weights, output, dq, dk, dv, angle;
    for (const int count : {4, 16, 64, 256}) {
      const app::ErrorFigures figures = study.measure(HashFamily::gaussian, count, 24);
      hashes.push_back(std::log(count));
      weights.push_back(std::log(figures.weights_error.mean));
      output.push_back(std::log(figures.output_error.mean));
      dq.push_back(std::log(figures.dq_error.mean));
      dk.push_back(std::log(figures.dk_error.mean));
      dv.push_back(std::log(figures.dv_error.mean));
      angle.push_back(figures.angle.mean);
    }
    for (const auto* errors : {&weights, &output, &dq, &dk, &dv})
      EXPECT_NEAR(slope(hashes, *errors), -0.5, 0.04);
    EXPECT_NEAR(angle[2] / angle[3], 2, 0.3) << "small angles fall alike";
    EXPECT_LT(angle[0], std::numbers::pi / 2);
  }
}

/// E |C - p|^2 = sum p (1 - p) / hashes for independent hashes, and E C = p. As many tokens as columns, with
/// the identity for values: the output is C itself.
TEST(ErrorStudy, gaussian_hashing_has_the_variance_of_its_law_and_no_bias) {
  std::vector<float> identity(width * heads * width);
  for (std::size_t i = 0; i < identity.size(); ++i)
    identity[i] = i / (heads * width) == i % width ? 1.0f : 0.0f;
  app::StudyRows rows = drawn_rows(width);
  rows.v = from_vector(identity, rows.v.shape());
  double variance = 0, squares = 0;
  for (const double p : probabilities(rows)) variance += p * (1 - p), squares += p * p;
  const app::ErrorStudy study(rows, bits, BernoulliGradient::surrogate);
  constexpr int hashes = 16, draws = 400;
  const app::ErrorFigures figures = study.measure(HashFamily::gaussian, hashes, draws);
  EXPECT_NEAR(figures.output_error.mean / std::sqrt(variance / hashes / squares), 1, 0.04);
  const double standard_error = figures.weights_scale.deviation / std::sqrt(draws);
  EXPECT_LT(standard_error, 0.01);
  EXPECT_NEAR(figures.weights_scale.mean, 1, 4 * standard_error);
}

TEST(ErrorStudy, hadamard_hashing_collides_too_rarely) {
  const app::ErrorStudy study(drawn_rows(), bits, BernoulliGradient::surrogate);
  const auto scale = [&](HashFamily family) { return study.measure(family, 32, 100).weights_scale; };
  const app::Spread published = scale(HashFamily::hadamard), interleaved = scale(HashFamily::interleaved);
  EXPECT_LT(published.mean, 0.93);
  EXPECT_GT(published.mean, 0.7);
  EXPECT_NEAR(interleaved.mean, 1, 0.03);
}

/// Rounded rows change few codes.
TEST(ErrorStudy, devices_and_types_agree) {
  const auto figures = [](DType dtype, Device device) {
    const app::StudyRows rows = drawn_rows(96, dtype, device);
    const app::ErrorFigures all =
        app::ErrorStudy(rows, bits, BernoulliGradient::surrogate).measure(HashFamily::gaussian, 16, 8);
    return std::array{all.angle.mean,    all.weights_error.mean, all.weights_scale.mean, all.output_error.mean,
                      all.dq_error.mean, all.dk_error.mean,      all.dv_error.mean};
  };
  const auto expected = figures(DType::float32, {});
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      if (device.type == DeviceType::cpu && dtype == DType::bfloat16) continue;
      const auto actual = figures(dtype, device);
      for (std::size_t i = 0; i < actual.size(); ++i)
        EXPECT_NEAR(actual[i] / expected[i], 1, dtype == DType::float32 ? 0.005 : 0.05)
            << device << " " << dtype;
    }
}

std::vector<io::Json> json_lines(const std::string& text) {
  std::vector<io::Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(io::parse_json(line, "output"));
  return lines;
}

const std::vector<std::string> short_study{"bench", "error",    "--lengths", "16,32",   "--hashes",
                                           "2,8",   "--device", "cpu",       "--seeds", "3"};

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(BenchError, prints_one_line_for_each_case) {
  const Outcome outcome = tern_command(with(short_study, {"--json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<io::Json> lines = json_lines(outcome.out);
  ASSERT_EQ(lines.size(), 1 + 2U * 3 * 2);
  EXPECT_TRUE(lines[0].contains("environment"));
  const io::Json& row = lines[1];
  const std::vector<std::pair<std::string, io::Json>> facts{
      {"input", "random"}, {"hash", "gaussian"},      {"length", 16},       {"sequences", 1},
      {"heads", 2},        {"head_width", 64},        {"bits", 4},          {"hashes", 2},
      {"seeds", 3},        {"gradient", "surrogate"}, {"dtype", "float32"}, {"device", "cpu"}};
  for (const auto& [key, value] : facts) EXPECT_EQ(row[key], value) << key;
  EXPECT_EQ(lines[12]["hash"], "hadamard");
  EXPECT_EQ(lines[12]["bits"], 5);
  for (std::size_t i = 1; i < lines.size(); ++i)
    for (const std::string figure : {"angle", "empty_rows", "weights_error", "weights_scale", "output_error",
                                     "dq_error", "dk_error", "dv_error"}) {
      EXPECT_GE(lines[i][figure].get<double>(), 0) << figure;
      EXPECT_GE(lines[i][figure + "_deviation"].get<double>(), 0) << figure;
    }
  EXPECT_EQ(tern_command(with(short_study, {"--json"})).out, outcome.out) << "equal draws";
}

TEST(BenchError, prints_a_table_and_writes_charts) {
  const TemporaryFolder folder;
  const Outcome outcome = tern_command(with(short_study, {"--plot", (folder / "figure").string()}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1 + 2 * 3 * 2);
  EXPECT_TRUE(holds(outcome.out, "output_error"));
  EXPECT_EQ(folder.entries(), 3);
  const std::string angle = read_bytes(folder / "figure-angle.svg"),
                    by_length = read_bytes(folder / "figure-length.svg"),
                    error = read_bytes(folder / "figure-error.svg");
  EXPECT_TRUE(holds(angle, ">hadamard, n = 32<"));
  EXPECT_TRUE(holds(by_length, ">hashes = 8<"));
  EXPECT_TRUE(holds(error, ">gaussian, dk<"));
  EXPECT_TRUE(holds(error, ">interleaved, output<"));
}

TEST(BenchError, refuses_what_it_cannot_do) {
  const auto code = [](const std::vector<std::string>& more) {
    return static_cast<ExitCode>(tern_command(with({"bench", "error"}, more)).code);
  };
  EXPECT_EQ(code({"--families", "gausian"}), ExitCode::usage);
  EXPECT_EQ(code({"--hashes", "0"}), ExitCode::usage);
  EXPECT_EQ(code({"--layer", "1"}), ExitCode::usage);
  EXPECT_EQ(code({"--checkpoint", "absent", "--input", "mean"}), ExitCode::usage);
  EXPECT_EQ(code({"--checkpoint", "/absent"}), ExitCode::missing_input);
  EXPECT_EQ(code({"--plot", "/absent/figure"}), ExitCode::cannot_create);
}

/// A finished short run, shared by the tests below.
class LayerRowsOfRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    prepare_short_data(*folder_ / "data");
    const Outcome trained = tern_command(short_training(*folder_ / "data", run(), 4));
    if (trained.code != 0) throw std::runtime_error(trained.err);
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::filesystem::path run() { return *folder_ / "run"; }
  static std::filesystem::path dev() { return *folder_ / "data/dev.records"; }

 private:
  static std::unique_ptr<TemporaryFolder> folder_;
};
std::unique_ptr<TemporaryFolder> LayerRowsOfRun::folder_;

/// Rows of the first layer, from the checkpoint's tensors: W norm(token + place) + b.
TEST_F(LayerRowsOfRun, are_what_the_mechanism_gets) {
  const app::LayerRows rows = app::layer_rows({run(), {}, 0, 5});
  const io::SafetensorsFile file(rows.checkpoint / "model.safetensors");
  const auto tensor = [&](const std::string& name) {
    const io::TensorRecord& record = file.at(name);
    std::vector<float> values(record.bytes.size() / sizeof(float));
    std::memcpy(values.data(), record.bytes.data(), record.bytes.size());
    return from_vector(values, Shape(record.shape));
  };
  const data::RecordFile records(dev());
  const auto ids = records.tokens(0);
  std::vector<std::int32_t> tokens, places;
  for (std::int64_t i = 0; i < ids.size(); ++i) tokens.push_back(ids[i]), places.push_back(static_cast<int>(i));
  const Shape shape{ids.size()};
  const Tensor x = add(embedding(from_vector(tokens, shape), tensor("encoder.token_embedding.weight")),
                       embedding(from_vector(places, shape), tensor("encoder.position_embedding.weight")));
  const std::string layer = "encoder.layers.0.";
  const Tensor product = linear(
      layer_norm(x, tensor(layer + "attention_norm.weight"), tensor(layer + "attention_norm.bias")),
      tensor(layer + "attention.query_key_value.weight"), tensor(layer + "attention.query_key_value.bias"));
  const auto parts = unstack(reshape(product, {ids.size(), 3, 2, 4}), 1);
  ASSERT_EQ(rows.offsets.size(), 6U);
  ASSERT_EQ(rows.offsets[1], ids.size());
  const std::array<const Tensor*, 3> noted{&rows.query, &rows.key, &rows.value};
  for (std::size_t part = 0; part < 3; ++part) {
    const auto actual = noted[part]->to_vector<double>(), expected = parts[part].to_vector<double>();
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-5);
  }
  EXPECT_NE(app::layer_rows({run(), {}, 1, 5}).query.to_vector<float>(), rows.query.to_vector<float>());
}

TEST_F(LayerRowsOfRun, can_be_cut) {
  const app::LayerRows whole = app::layer_rows({run(), {}, 1, 20}), cut = app::first_rows(whole, 12);
  std::size_t kept = 0;
  for (std::size_t s = 0; s + 1 < whole.offsets.size(); ++s) {
    if (whole.offsets[s + 1] - whole.offsets[s] < 12) continue;
    const Tensor original = whole.value.narrowed(0, whole.offsets[s], 12),
                 copy = cut.value.narrowed(0, static_cast<std::int64_t>(12 * kept), 12);
    EXPECT_EQ(copy.to_vector<float>(), original.to_vector<float>());
    EXPECT_EQ(cut.sample[kept], whole.sample[s]);
    ++kept;
  }
  EXPECT_GT(kept, 0U);
  EXPECT_LT(kept, 20U);
  EXPECT_EQ(cut.offsets.size(), kept + 1);
  EXPECT_EQ(cut.value.size(0), static_cast<std::int64_t>(12 * kept));
  EXPECT_THROW(app::first_rows(whole, 31), Error);
}

TEST_F(LayerRowsOfRun, are_studied_by_the_command) {
  const std::vector<std::string> arguments{
      "bench",  "error",      "--checkpoint", run().string(), "--layer", "1",
      "--json", "--device",   "cpu",          "--seeds",      "2",       "--hashes",
      "4",      "--families", "gaussian"};
  const Outcome whole = tern_command(arguments);
  ASSERT_EQ(whole.code, 0) << whole.err;
  const std::vector<io::Json> lines = json_lines(whole.out);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[1]["input"], "layer");
  EXPECT_EQ(lines[1]["layer"], 1);
  EXPECT_EQ(lines[1]["sequences"], 8);
  EXPECT_EQ(lines[1]["bits"], 5) << "of the padded length";
  EXPECT_GT(lines[1]["step"].get<int>(), 0);
  const Outcome cut = tern_command(with(arguments, {"--lengths", "6", "--records", "20"}));
  ASSERT_EQ(cut.code, 0) << cut.err;
  EXPECT_EQ(json_lines(cut.out).at(1)["length"], 6);
  EXPECT_EQ(json_lines(cut.out).at(1)["bits"], 3);
  const std::vector<std::string> absent{"bench", "error", "--checkpoint", run().string(), "--layer", "2"};
  EXPECT_EQ(tern_command(absent).code, static_cast<int>(ExitCode::failed));
}

}  // namespace
}  // namespace tern::test
