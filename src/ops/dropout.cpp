#include "kernels/dropout.h"

#include "ops/views.h"

namespace tern {

Tensor dropout(const Tensor& input, const RowCoordinates& rows, const DropoutOptions& options) {
  require_floating("dropout", input);
  require_rate("dropout", options.rate);
  require(input.rank() == 2 && rows.sample.shape() == Shape{input.size(0)} &&
              rows.position.shape() == rows.sample.shape(),
          "dropout: x must be [rows, width] with coordinates for each row, got {} and {}", input.shape(),
          rows.sample.shape());
  require_one_device("dropout",
                     {{"x", input}, {"samples of rows", rows.sample}, {"positions of rows", rows.position}});
  if (options.rate == 0) return input;
  const Tensor x = contiguous_constant(input), y = empty_like(x);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::dropout<T>(device, rows_of<const T>(x), mask_of(rows, options), y.data<T>());
  });
  return record("dropout", y, {input}, [rows, options](const Tensor& dy, GradientSink& sink) {
    sink.add(0, dropout(dy, rows, options));
  });
}

}  // namespace tern
