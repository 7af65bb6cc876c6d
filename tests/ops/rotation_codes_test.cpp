// Codes of rows by random rotations against their definition.
#include <algorithm>

#include "support/devices.h"
#include "support/op_case.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// Entries of [xR; -xR] of a row, summed in double.
std::vector<double> rotated_entries(const Array& x, std::int64_t token, std::int64_t head, int round,
                                    int columns) {
  const std::int64_t width = x.size(2);
  std::vector<float> normals(static_cast<std::size_t>(columns * width));
  fill_normal(test_stream(414), 0,
              static_cast<std::uint64_t>(head) << 40 | static_cast<std::uint64_t>(round) << 32, normals);
  std::vector<double> entries(static_cast<std::size_t>(2 * columns));
  for (std::int64_t column = 0; column < columns; ++column)
    for (std::int64_t c = 0; c < width; ++c) {
      const double normal = to_float(to_bfloat16(normals[static_cast<std::size_t>(column * width + c)]));
      entries[static_cast<std::size_t>(column)] += normal * x[(token * x.size(1) + head) * width + c];
      entries[static_cast<std::size_t>(columns + column)] = -entries[static_cast<std::size_t>(column)];
    }
  return entries;
}

/// Checks that a code is the first place of a row's largest entry, or of one that is as large but for
/// `tolerance` times its size.
void check_codes(const Tensor& x, const SequenceLayout& layout, const RotationCodeOptions& options,
                 double tolerance) {
  SCOPED_TRACE(::testing::Message() << x.device() << " " << x.dtype() << " width " << x.size(2) << " buckets "
                                    << options.buckets);
  const auto codes =
      rotation_codes(x, on(x, layout), options, on(x, test_stream(414))).to_vector<std::int32_t>();
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  const Array rows = array_of(x);
  const int lists = static_cast<int>(x.size(1)) * options.rounds;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (int token = offsets[s]; token < offsets[s + 1]; ++token)
      for (int list = 0; list < lists; ++list) {
        const int code = codes[static_cast<std::size_t>(list * x.size(0) + token)],
                  tokens = offsets[s + 1] - offsets[s],
                  columns =
                      options.buckets > 0 ? options.buckets / 2 : (tokens + options.block - 1) / options.block;
        if (tokens <= options.block) {
          ASSERT_EQ(code, 0) << token;
          continue;
        }
        const auto entries =
            rotated_entries(rows, token, list / options.rounds, list % options.rounds, columns);
        const auto largest = std::max_element(entries.begin(), entries.end());
        ASSERT_TRUE(code >= 0 && code < 2 * columns) << code << " of " << columns;
        if (tolerance > 0 && entries[static_cast<std::size_t>(code)] > *largest * (1 - tolerance)) continue;
        ASSERT_EQ(code, largest - entries.begin()) << token << " " << list;
      }
}

std::vector<DType> types_of(Device device) {
  std::vector<DType> types{DType::float64, DType::float32};
  if (device.type == DeviceType::cuda) types.push_back(DType::bfloat16);
  return types;
}

TEST(RotationCodes, are_the_places_of_the_largest_rotated_entries) {
  const SequenceLayout layout = layout_of({40, 0, 8, 9, 100}, 300);
  for (const Device device : test_devices())
    for (const DType dtype : types_of(device))
      for (const std::int64_t width : {3, 32, 64, 70, 136, 260})
        for (const int buckets : {0, 6})
          check_codes(tensor_of(normal_array({157, 2, width}, 415), dtype, device), layout, {3, 8, buckets},
                      dtype == DType::float64 ? 1e-13 : 1e-5);
}

TEST(RotationCodes, of_slices_of_rows) {
  const SequenceLayout layout = layout_of({70, 200, 5}, 200);
  for (const Device device : test_devices())
    for (const DType dtype : types_of(device)) {
      const Tensor x = tensor_of(normal_array({275, 3, 80}, 416), dtype, device);
      check_codes(slice(x, 2, 8, 64), layout, {2, 4, 0}, 1e-5);
      check_codes(slice(slice(x, 2, 3, 17), 1, 1, 2), layout, {1, 4, 0}, 1e-5);
    }
}

/// Rows with one entry, whose products are exact and bfloat16 numbers: many are equal.
TEST(RotationCodes, the_first_of_equal_entries_counts) {
  const SequenceLayout layout = layout_of({130, 40}, 130);
  Array rows({170, 2, 24});
  for (std::int64_t token = 0; token < 170; ++token)
    for (std::int64_t head = 0; head < 2; ++head)
      rows[(token * 2 + head) * 24 + (token + head) % 24] = token % 3 == 0 ? -2 : 0.5;
  for (const Device device : test_devices())
    for (const DType dtype : types_of(device))
      check_codes(tensor_of(rows, dtype, device), layout, {2, 16, 600}, 0);
}

TEST(RotationCodes, rows_without_a_direction_get_the_first_bucket) {
  const SequenceLayout layout = layout_of({100}, 100);
  for (const Device device : test_devices())
    for (const DType dtype : types_of(device)) {
      const Tensor x = zeros({100, 1, 8}, dtype, device);
      EXPECT_EQ(rotation_codes(x, on(x, layout), {1, 8, 0}, on(x, test_stream(414))).to_vector<std::int32_t>(),
                std::vector<std::int32_t>(100, 0));
    }
}

}  // namespace
}  // namespace tern::test
