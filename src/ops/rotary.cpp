#include "kernels/rotary.h"

#include "ops/views.h"

namespace tern {
namespace {

Tensor rotated(const Tensor& x, const Tensor& position, const Tensor& sinusoids, bool is_inverse) {
  const Tensor y = empty(x.shape(), x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    using Sum = Accumulate<T>;
    kernels::rotate_rows<T>(
        device, heads_of<const T>(x),
        kernels::Rotation<Sum>{sinusoids.data<Sum>(), position.data<std::int32_t>(), is_inverse}, y.data<T>());
  });
  return y;
}

}  // namespace

Tensor rotary(const Tensor& input, const Tensor& sinusoids, const SequenceLayout& layout) {
  require_floating("rotary", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && input.size(2) % 2 == 0,
          "rotary: x must be [{}, heads, width] with an even width, got {}", layout.tokens(), input.shape());
  require(sinusoids.rank() == 2 && sinusoids.size(0) >= layout.padded_length &&
              sinusoids.size(1) == input.size(2) && sinusoids.dtype() == accumulate_type(input.dtype()),
          "rotary: sinusoids must be {} [at least {}, {}], got {} {}", accumulate_type(input.dtype()),
          layout.padded_length, input.size(2), sinusoids.dtype(), sinusoids.shape());
  require_one_device("rotary", {{"x", input}, {"sinusoids", sinusoids}, {"layout", layout.offsets}});
  const Tensor table = contiguous_constant(sinusoids);
  return record("rotary", rotated(with_unit_width(input), layout.position, table, false), {input},
                [table, position = layout.position](const Tensor& dy, GradientSink& sink) {
                  sink.add(0, rotated(with_unit_width(dy), position, table, true));
                });
}

}  // namespace tern
