// The tape: every op records one node; backward() walks the nodes once, in reverse order.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tern/tensor.h"

namespace tern {

/// Receives the gradients that one node's closure produces for the node's inputs.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  /// Whether anybody needs the gradient of input `index`.
  virtual bool wants(int index) const = 0;
  /// Contributes `gradient` (shape of the input, its type or accumulate_type() of it; any strides; may alias
  /// another tensor). Ignored if unwanted.
  virtual void add(int index, const Tensor& gradient) = 0;
  /// Lets a kernel write the contribution itself: write(target, accumulate) must add to `target` if
  /// `accumulate`, else overwrite it. `target` is contiguous and of accumulate_type() of the input: meant for
  /// parameters, whose gradients are summed in float32. Not called if unwanted. A target that is kept and
  /// written later must not belong to two inputs of the node.
  virtual void write(int index, const std::function<void(const Tensor& target, bool accumulate)>& write) = 0;
};

/// Gradient rule of one node: `dy[i]` is the gradient of output i, undefined where no later op used that
/// output.
using Backward = std::function<void(std::span<const Tensor> dy, GradientSink& sink)>;

/// Puts `outputs` on the tape as results of `op` on `inputs`, unless recording is off or no input requires a
/// gradient. The closure must capture detached tensors and plain values only.
std::vector<Tensor> record(std::string_view op, std::vector<Tensor> outputs, std::span<const Tensor> inputs,
                           Backward backward);
/// The common case of one output; the closure gets its gradient.
Tensor record(std::string_view op, const Tensor& output, std::initializer_list<Tensor> inputs,
              std::function<void(const Tensor& dy, GradientSink& sink)> backward);

/// True unless a NoGradientScope is alive on this thread.
bool is_recording();

/// While alive, ops on this thread record nothing.
class NoGradientScope {
 public:
  NoGradientScope();
  ~NoGradientScope();
  NoGradientScope(const NoGradientScope&) = delete;
  NoGradientScope& operator=(const NoGradientScope&) = delete;

 private:
  bool outer_;
};

/// Makes `value` a leaf: backward() accumulates its gradient into `gradient` (same shape, accumulate_type(),
/// contiguous), which the caller owns and clears. Returns the tensor to compute with.
Tensor leaf(const Tensor& value, const Tensor& gradient);
/// A leaf with a gradient of its own, filled with zeros.
Tensor leaf(const Tensor& value);
/// The gradient accumulated in a leaf.
Tensor gradient_of(const Tensor& leaf);

/// Called with a leaf's gradient block once nothing can be added to it any more in this backward pass.
using GradientReady = std::function<void(const Tensor& leaf_gradient)>;

/// Accumulates d(sum of roots * seeds) / d(leaf) into every leaf below `roots`. Each seed has its root's shape;
/// an undefined seed leaves that root out. `on_ready` fires once for each leaf reached, after its last use
/// (tied and shared weights are counted); leave it empty for all micro-batches but the last. Re-entrant: a
/// closure may call backward().
void backward(std::span<const Tensor> roots, std::span<const Tensor> seeds, const GradientReady& on_ready = {});
/// Gradients of the sum of root's elements.
void backward(const Tensor& root, const GradientReady& on_ready = {});

using Function = std::function<std::vector<Tensor>(std::span<const Tensor>)>;
/// Activation checkpointing: computes f(inputs) without keeping its intermediate tensors and computes it again
/// inside backward(). `parameters` are the leaves that f uses besides its inputs. f must be a pure function of
/// both and, with all it captures, live as long as the outputs. Costs a second forward pass of f; saves
/// everything f would record.
std::vector<Tensor> checkpoint(const Function& f, std::span<const Tensor> inputs,
                               std::span<const Tensor> parameters);

/// The tape's record of one op.
struct Node {
  std::string_view op;
  std::vector<Edge> inputs;
  struct Facts {
    Shape shape;
    DType dtype;
  };
  std::vector<Facts> outputs;
  Backward backward;
  Tensor leaf_gradient;  ///< defined for leaves only
  ~Node();               ///< takes the nodes below apart in a loop: a long chain needs no deep stack
};

}  // namespace tern
