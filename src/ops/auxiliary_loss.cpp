#include "ops/views.h"

namespace tern {

Tensor with_auxiliary_loss(const Tensor& x, const Tensor& loss) {
  require_floating("with_auxiliary_loss", x);
  require_floating("with_auxiliary_loss", loss);
  require(loss.rank() == 0, "with_auxiliary_loss: the loss must have the shape [], got {}", loss.shape());
  require_one_device("with_auxiliary_loss", {{"x", x}, {"loss", loss}});
  return record("with_auxiliary_loss", x.detach(), {x, loss},
                [dtype = loss.dtype(), device = loss.device()](const Tensor& dx, GradientSink& sink) {
                  sink.add(0, dx);
                  sink.add(1, full({}, 1, dtype, device));
                });
}

}  // namespace tern
