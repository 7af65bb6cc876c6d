// Memory and copies of the GPU, and captured work.
#include <gtest/gtest.h>

#include "base/cuda_graph.h"
#include "base/cuda_memory.h"
#include "base/has_cuda.h"
#include "core/accumulate.h"
#include "support/array.h"
#include "support/thrown_error.h"
#include "tern/memory.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr Device gpu{DeviceType::cuda, 0};
constexpr std::array all_types{DType::float32, DType::float64, DType::bfloat16, DType::uint8,
                               DType::uint16,  DType::int32,   DType::int64};

class CudaCore : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  }
};

/// Small whole numbers, which every type holds.
Tensor whole_numbers(const Shape& shape, DType dtype, Device device) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < shape.count(); ++i) values.push_back(static_cast<double>(i * 7 % 120));
  const Tensor host = empty(shape, dtype), out = empty(shape, dtype, device);
  copy(from_vector(values, shape), host);
  copy(host, out);
  return out;
}

TEST_F(CudaCore, copies_between_all_types_and_strides_as_the_host_does) {
  for (const DType from : all_types)
    for (const DType to : all_types) {
      const Tensor source = whole_numbers({5, 33, 6}, from, gpu), there = whole_numbers({5, 33, 6}, from, {});
      const Tensor target = zeros({33, 12, 5}, to, gpu), expected = zeros({33, 12, 5}, to);
      const std::vector<int> axes{2, 0, 1};
      copy(source, target.narrowed(1, 3, 6).permuted(axes));
      copy(there, expected.narrowed(1, 3, 6).permuted(axes));
      EXPECT_EQ(target.to_vector<double>(), expected.to_vector<double>()) << from << " to " << to;
      accumulate(source, target.narrowed(1, 3, 6).permuted(axes));
      accumulate(there, expected.narrowed(1, 3, 6).permuted(axes));
      EXPECT_EQ(target.to_vector<double>(), expected.to_vector<double>()) << from << " added to " << to;
    }
}

TEST_F(CudaCore, copies_of_contiguous_arrays_of_odd_sizes) {
  for (const std::int64_t count : {1, 2, 7, 255, 4097, 100003})
    for (const DType to : {DType::float32, DType::bfloat16}) {
      const Tensor source = tensor_of(normal_array({count}, 1), DType::float32, gpu),
                   target = empty({count}, to, gpu);
      copy(source, target);
      const Tensor there = empty({count}, to);
      copy(tensor_of(normal_array({count}, 1), DType::float32), there);
      EXPECT_EQ(target.to_vector<double>(), there.to_vector<double>()) << count;
    }
}

TEST_F(CudaCore, fills_every_type) {
  for (const DType dtype : all_types)
    EXPECT_EQ(full({3, 5}, 9, dtype, gpu).to_vector<double>(), std::vector<double>(15, 9)) << dtype;
}

TEST_F(CudaCore, an_index_outside_its_table_is_told_at_the_next_synchronization) {
  const Tensor table = zeros({4, 8}, DType::float32, gpu);
  embedding(from_vector(std::vector<std::int32_t>{0, 3, 4, 1}, {4}, gpu), table);
  EXPECT_TRUE(
      mentions(thrown_error([] { synchronize(gpu); }), "embedding: ids must lie in [0, 4), got 4 at place 2"));
  synchronize(gpu);
  cross_entropy(zeros({3, 5}, DType::float32, gpu), from_vector(std::vector<std::int32_t>{0, -1, 4}, {3}, gpu));
  EXPECT_TRUE(
      mentions(thrown_error([] { synchronize(gpu); }), "cross_entropy: label -1 of row 1 is not one of 5"));
}

TEST_F(CudaCore, running_out_of_memory_names_the_owners_and_leaves_the_device_usable) {
  const ModuleScope scope("encoder.layers.7");
  const Tensor kept = zeros({1 << 20}, DType::float32, gpu);
  const Error error = thrown_error([] { empty({std::int64_t{1} << 40}, DType::float32, gpu); });
  EXPECT_TRUE(mentions(error, "out of memory on cuda:0")) << error.what();
  EXPECT_TRUE(mentions(error, "encoder.layers.7 4 MiB")) << error.what();
  EXPECT_EQ(sum(add(kept, full({1 << 20}, 1, DType::float32, gpu))).item(), 1 << 20);
}

TEST_F(CudaCore, a_captured_step_computes_anew_with_each_launch) {
  if constexpr (has_cuda) {
    const Tensor x = from_vector(std::vector<float>{1, 2, 3, 4}, {4}, gpu), y = zeros({4}, DType::float32, gpu);
    const auto body = [&] { copy(add(multiply(x, x), affine(x, 2)), y); };
    body();
    resize_graph_arena(0, 0);
    EXPECT_FALSE(DeviceGraph::capture(0, body).has_value()) << "there is no arena yet";
    resize_graph_arena(0, 1 << 20);
    std::optional<DeviceGraph> graph = DeviceGraph::capture(0, body);
    ASSERT_TRUE(graph.has_value());
    const std::int64_t before = device_memory(0).live_bytes;
    for (const float first : {5.0f, -1.0f}) {
      copy(from_vector(std::vector<float>{first, 0, 1, 2}, {4}), x);
      graph->launch();
      EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{first * first + 2 * first, 0, 3, 8}));
    }
    EXPECT_EQ(device_memory(0).live_bytes, before);
    EXPECT_TRUE(mentions(
        thrown_error([&] { DeviceGraph::capture(0, [&] { throw_error(ExitCode::failed, "inside"); }); }),
        "inside"));
    EXPECT_TRUE(DeviceGraph::capture(0, body).has_value()) << "a failed capture must leave the stream usable";
    graph.reset();
    resize_graph_arena(0, 0);
  }
}

}  // namespace
}  // namespace tern::test
