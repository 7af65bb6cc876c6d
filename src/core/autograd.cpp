// Recording, and the backward walk: nodes in reverse topological order, gradients summed in a fixed order.
#include "tern/autograd.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/accumulate.h"

namespace tern {
namespace {

thread_local bool recording = true;

using Gradients = std::vector<Tensor>;  // one for each output of a node

void check_gradient(const Node& consumer, int index, const Tensor& gradient, const Node::Facts& expected) {
  ensure(gradient.defined(), "{}: the gradient of input {} is undefined", consumer.op, index);
  const bool is_type_right =
      gradient.dtype() == expected.dtype || gradient.dtype() == accumulate_type(expected.dtype);
  ensure(gradient.shape() == expected.shape && is_type_right,
         "{}: the gradient of input {} must be {} {}, got {} {}", consumer.op, index, expected.dtype,
         expected.shape, gradient.dtype(), gradient.shape());
}

/// One pass of backward(): owns the gradients in flight.
class Walk {
 public:
  explicit Walk(const GradientReady& on_ready) : on_ready_(on_ready) {}
  void run(std::span<const Tensor> roots, std::span<const Tensor> seeds);
  Gradients& gradients(Node* node) {
    Gradients& found = in_flight_[node];
    if (found.empty()) found.resize(node->outputs.size());
    return found;
  }

 private:
  void count_uses(const std::vector<Node*>& roots);
  void visit(Node& node);
  void release(const Edge& edge);

  const GradientReady& on_ready_;
  std::unordered_map<Node*, Gradients> in_flight_;
  std::unordered_map<Node*, int> uses_;
  std::vector<std::shared_ptr<Node>> ready_;
};

class NodeSink final : public GradientSink {
 public:
  NodeSink(Walk& walk, const Node& node) : walk_(walk), node_(node) {}
  bool wants(int index) const override { return edge(index).node != nullptr; }
  void add(int index, const Tensor& gradient) override {
    if (!wants(index)) return;
    Node& producer = *edge(index).node;
    check_gradient(node_, index, gradient, facts(index));
    if (producer.leaf_gradient.defined()) return accumulate(gradient, producer.leaf_gradient);
    Tensor& slot = walk_.gradients(&producer)[output(index)];
    if (!slot.defined()) {
      slot = gradient.detach();
    } else {
      make_own(slot, slot.dtype());
      accumulate(gradient, slot);
    }
  }
  void write(int index, const std::function<void(const Tensor&, bool)>& write) override {
    if (!wants(index)) return;
    Node& producer = *edge(index).node;
    if (producer.leaf_gradient.defined()) return write(producer.leaf_gradient, true);
    Tensor& slot = walk_.gradients(&producer)[output(index)];
    const DType sums = accumulate_type(facts(index).dtype);
    const bool is_first = !slot.defined();
    if (is_first)
      slot = empty(facts(index).shape, sums, device_);
    else
      make_own(slot, sums);
    write(slot, !is_first);
  }
  void set_device(Device device) { device_ = device; }

 private:
  const Edge& edge(int index) const {
    ensure(index >= 0 && index < static_cast<int>(node_.inputs.size()), "{}: has no input {}", node_.op, index);
    return node_.inputs[static_cast<std::size_t>(index)];
  }
  std::size_t output(int index) const { return static_cast<std::size_t>(edge(index).output); }
  const Node::Facts& facts(int index) const { return edge(index).node->outputs[output(index)]; }
  /// Before anything is added to a gradient that may alias another tensor, it becomes a copy.
  static void make_own(Tensor& slot, DType dtype) {
    if (slot.is_sole_owner() && slot.is_contiguous() && slot.dtype() == dtype) return;
    const Tensor own = empty(slot.shape(), dtype, slot.device());
    copy(slot, own);
    slot = own;
  }
  Walk& walk_;
  const Node& node_;
  Device device_;
};

void Walk::count_uses(const std::vector<Node*>& roots) {
  std::vector<Node*> open;
  std::unordered_set<Node*> seen;
  const auto open_once = [&](Node* node) {
    if (seen.insert(node).second) open.push_back(node);
  };
  for (Node* root : roots) open_once(root);
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    for (const Edge& edge : node->inputs) {
      if (!edge.node) continue;
      ++uses_[edge.node.get()];
      open_once(edge.node.get());
    }
  }
}

void Walk::release(const Edge& edge) {
  if (!edge.node || --uses_[edge.node.get()] > 0) return;
  if (!edge.node->leaf_gradient.defined())
    ready_.push_back(edge.node);
  else if (on_ready_)
    on_ready_(edge.node->leaf_gradient);
}

/// Sums in flight may be wider than the tensors they belong to.
Tensor in_type(const Tensor& gradient, DType dtype) {
  if (gradient.dtype() == dtype) return gradient;
  const Tensor out = empty(gradient.shape(), dtype, gradient.device());
  copy(gradient, out);
  return out;
}

void Walk::visit(Node& node) {
  Gradients dy = std::move(gradients(&node));
  in_flight_.erase(&node);
  NodeSink sink(*this, node);
  bool is_reached = false;
  for (std::size_t i = 0; i < dy.size(); ++i) {
    if (!dy[i].defined()) continue;
    is_reached = true;
    sink.set_device(dy[i].device());
    dy[i] = in_type(dy[i], node.outputs[i].dtype);
  }
  if (is_reached)
    with_context([&] { return format_text("backward of {}", node.op); }, [&] { node.backward(dy, sink); });
}

void Walk::run(std::span<const Tensor> roots, std::span<const Tensor> seeds) {
  std::vector<Node*> nodes;
  for (std::size_t i = 0; i < roots.size(); ++i) {
    const Tensor &root = roots[i], &seed = seeds[i];
    if (!seed.defined()) continue;
    require(root.requires_gradient(), "backward: the root of shape {} does not depend on any parameter",
            root.shape());
    require(!root.edge().node->leaf_gradient.defined(), "backward: a root is itself a leaf");
    require(seed.shape() == root.shape(), "backward: the seed must have the root's shape {}, got {}",
            root.shape(), seed.shape());
    Tensor& slot = gradients(root.edge().node.get())[static_cast<std::size_t>(root.edge().output)];
    require(!slot.defined(), "backward: a tensor is given twice as root");
    slot = seed.detach();
    nodes.push_back(root.edge().node.get());
  }
  count_uses(nodes);
  for (const Tensor& root : roots) {
    const std::shared_ptr<Node>& node = root.edge().node;
    const bool is_root = std::find(nodes.begin(), nodes.end(), node.get()) != nodes.end();
    const bool is_listed = std::find(ready_.begin(), ready_.end(), node) != ready_.end();
    if (is_root && !is_listed && uses_[node.get()] == 0) ready_.push_back(node);
  }
  while (!ready_.empty()) {
    const std::shared_ptr<Node> node = ready_.back();
    ready_.pop_back();
    visit(*node);
    for (const Edge& edge : node->inputs) release(edge);
  }
}

/// f() with recording on, whatever the caller's state.
template <class F>
auto record_on(const F& f) {
  struct Restore {
    bool outer = recording;
    ~Restore() { recording = outer; }
  } restore;
  recording = true;
  return f();
}

}  // namespace

bool is_recording() { return recording; }
NoGradientScope::NoGradientScope() : outer_(recording) { recording = false; }
NoGradientScope::~NoGradientScope() { recording = outer_; }

Node::~Node() {
  std::vector<std::shared_ptr<Node>> open;
  const auto take_inputs = [&open](Node& node) {
    for (Edge& edge : node.inputs)
      if (edge.node) open.push_back(std::move(edge.node));
  };
  take_inputs(*this);
  while (!open.empty()) {
    const std::shared_ptr<Node> node = std::move(open.back());
    open.pop_back();
    if (node.use_count() == 1) take_inputs(*node);
  }
}

std::vector<Tensor> record(std::string_view op, std::vector<Tensor> outputs, std::span<const Tensor> inputs,
                           Backward backward) {
  bool is_needed = false;
  for (const Tensor& input : inputs) is_needed |= input.requires_gradient();
  if (!recording || !is_needed) return outputs;
  auto node = std::make_shared<Node>();
  node->op = op;
  node->backward = std::move(backward);
  for (const Tensor& input : inputs) node->inputs.push_back(input.edge());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    node->outputs.push_back({outputs[i].shape(), outputs[i].dtype()});
    outputs[i].set_edge({node, static_cast<int>(i)});
  }
  return outputs;
}

Tensor record(std::string_view op, const Tensor& output, std::initializer_list<Tensor> inputs,
              std::function<void(const Tensor&, GradientSink&)> backward) {
  const std::span<const Tensor> all(inputs.begin(), inputs.size());
  return record(op, std::vector{output.detach()}, all,
                [backward = std::move(backward)](std::span<const Tensor> dy, GradientSink& sink) {
                  backward(dy[0], sink);
                })
      .front();
}

Tensor leaf(const Tensor& value, const Tensor& gradient) {
  const DType sums = accumulate_type(value.dtype());
  require(gradient.shape() == value.shape() && gradient.dtype() == sums && gradient.is_contiguous(),
          "leaf: the gradient must be contiguous {} {}, got {} {}", sums, value.shape(), gradient.dtype(),
          gradient.shape());
  auto node = std::make_shared<Node>();
  node->op = "leaf";
  node->outputs.push_back({value.shape(), value.dtype()});
  node->leaf_gradient = gradient.detach();
  Tensor out = value.detach();
  out.set_edge({node, 0});
  return out;
}

Tensor leaf(const Tensor& value) {
  return leaf(value, zeros(value.shape(), accumulate_type(value.dtype()), value.device()));
}

Tensor gradient_of(const Tensor& leaf) {
  require(leaf.requires_gradient() && leaf.edge().node->leaf_gradient.defined(),
          "gradient_of: the tensor of shape {} is not a leaf", leaf.shape());
  return leaf.edge().node->leaf_gradient;
}

void backward(std::span<const Tensor> roots, std::span<const Tensor> seeds, const GradientReady& on_ready) {
  require(roots.size() == seeds.size(), "backward: {} roots need as many seeds, got {}", roots.size(),
          seeds.size());
  const NoGradientScope scope;
  Walk(on_ready).run(roots, seeds);
}

void backward(const Tensor& root, const GradientReady& on_ready) {
  const Tensor seed = full(root.shape(), 1.0, root.dtype(), root.device());
  backward(std::span(&root, 1), std::span(&seed, 1), on_ready);
}

std::vector<Tensor> checkpoint(const Function& f, std::span<const Tensor> inputs,
                               std::span<const Tensor> parameters) {
  std::vector<Tensor> constants, edges(inputs.begin(), inputs.end()), outputs;
  for (const Tensor& input : inputs) constants.push_back(input.detach());
  // The parameters' edges keep their use counts right: they are ready only after this node's backward has run.
  edges.insert(edges.end(), parameters.begin(), parameters.end());
  {
    const NoGradientScope scope;
    for (const Tensor& output : f(constants)) outputs.push_back(output.detach());
  }
  return record("checkpoint", outputs, edges, [f, constants](std::span<const Tensor> dy, GradientSink& sink) {
    std::vector<Tensor> again, roots, seeds;
    for (std::size_t i = 0; i < constants.size(); ++i)
      again.push_back(sink.wants(static_cast<int>(i)) ? leaf(constants[i]) : constants[i]);
    const std::vector<Tensor> recomputed = record_on([&] {
      std::vector<Tensor> results = f(again);
      // f may return an input, or one tensor twice, and neither can be a root.
      for (Tensor& result : results)
        result = record("checkpoint", result, {result},
                        [](const Tensor& gradient, GradientSink& inner) { inner.add(0, gradient); });
      return results;
    });
    for (std::size_t i = 0; i < recomputed.size(); ++i) {
      if (!dy[i].defined() || !recomputed[i].requires_gradient()) continue;
      roots.push_back(recomputed[i]);
      seeds.push_back(dy[i]);
    }
    backward(roots, seeds);
    for (std::size_t i = 0; i < again.size(); ++i)
      if (sink.wants(static_cast<int>(i))) sink.add(static_cast<int>(i), gradient_of(again[i]));
  });
}

}  // namespace tern
