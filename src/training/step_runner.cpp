#include "training/step_runner.h"

#include <algorithm>
#include <array>

#include "base/cuda_graph.h"
#include "core/accumulate.h"
#include "tern/memory.h"
#include "tern/ops.h"
#include "training/cost.h"

namespace tern {
namespace {

constexpr std::size_t slot_count = 2;

/// Bytes that a step may take: a GPU's memory but for what is held between steps, on the CPU what the step got.
double room_for_step(Device device, std::int64_t live) {
  if (device.type == DeviceType::cpu)
    return static_cast<double>(std::max<std::int64_t>(memory_statistics().peak_bytes - live, 0));
  const DeviceMemory memory = device_memory(device.index);
  const auto arena = static_cast<std::int64_t>(graph_arena_bytes(device.index));
  return 0.9 * static_cast<double>(memory.total_bytes) - static_cast<double>(memory.live_bytes - arena);
}

/// What to try after memory ran out with `live` bytes before a micro-batch of `tokens` tokens: the share of it
/// that the estimate of its memory fits into what there is.
std::string memory_advice(const Experiment& experiment, std::int64_t tokens, std::int64_t live) {
  const std::int64_t records = part_records(experiment);
  const std::int64_t sequences = records * (experiment.task.interface.is_pair ? 2 : 1);
  const BatchCost part{records, std::max<std::int64_t>(tokens / std::max<std::int64_t>(sequences, 1), 1),
                       experiment.store.dtype()};
  const double wanted =
      estimate_cost(experiment.config.model, experiment.task.interface, 0, part).training_bytes;
  const double share = std::clamp(room_for_step(experiment.device(), live) / std::max(wanted, 1.0), 0.0, 0.5);
  auto fitting = static_cast<std::int64_t>(share * static_cast<double>(records));
  if (fitting >= 8) fitting = fitting / 8 * 8;
  if (fitting < 1)
    return records == 1 ? "; a single example does not fit: shorten it with task.max_length or set "
                          "model.recompute=true"
                        : "; one example at a time may fit: set training.accumulate to training.batch_size";
  const std::int64_t batch = experiment.config.training.batch_size;
  std::int64_t parts = (batch + fitting - 1) / fitting;
  while (batch % parts != 0) ++parts;
  return format_text(
      "; about {} examples at a time should fit: training.accumulate={} or training.batch_size={}", fitting,
      parts, fitting);
}

}  // namespace

std::int64_t part_records(const Experiment& experiment) {
  return experiment.config.training.batch_size / experiment.config.training.accumulate;
}

std::size_t largest_batch_bytes(const Experiment& experiment, std::int64_t records) {
  const TaskInterface& task = experiment.task.interface;
  const std::int64_t kept = experiment.task.max_length;
  BatchShape shape;
  shape.sequences = records * (task.is_pair ? 2 : 1);
  (task.is_regression ? shape.targets : shape.labels) = records;
  shape.padded_length = task.padded_length;
  shape.capacity =
      token_capacity(shape.sequences * (kept > 0 ? std::min(kept, task.padded_length) : task.padded_length));
  return packed_bytes(shape);
}

StepRunner::StepRunner(Experiment& experiment, Communicator& communicator, BatchSource source,
                       GraphCache& graphs)
    : experiment_(experiment),
      communicator_(communicator),
      feed_(experiment.device(), std::move(source), largest_batch_bytes(experiment, part_records(experiment))),
      graphs_(graphs) {
  if (experiment.device().type == DeviceType::cpu) return;
  require(communicator.size() == 1, "run.device: several processes can only train on the CPU, got {} on GPUs",
          communicator.size());
  const std::size_t bytes =
      sizeof(StepState) + static_cast<std::size_t>(experiment.optimizer.squares().count()) * sizeof(double);
  for (std::size_t i = 0; i < slot_count; ++i) slots_.push_back({PinnedMemory(bytes), DeviceEvent()});
}

StepRunner::~StepRunner() {
  try {
    synchronize(experiment_.device());  // it may still write to the slots
  } catch (const Error&) {              // told where the work was waited for
  }
}

void StepRunner::launch(std::uint32_t step, double learning_rate, double beta1) {
  ensure(pending() <= most_pending(), "step runner: {} outcomes were not taken", pending());
  const std::int64_t live = memory_statistics().live_bytes;
  try {
    compute(step, learning_rate, beta1);
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(error.what() + memory_advice(experiment_, part_tokens_, live));
  }
}

void StepRunner::compute(std::uint32_t step, double learning_rate, double beta1) {
  StepMemory& state = experiment_.state;
  StepOutcome outcome;
  state.begin(step, learning_rate, beta1);
  clear(experiment_.store.gradients());
  for (std::int64_t part = 0; part < experiment_.config.training.accumulate; ++part) {
    const std::optional<FedBatch> batch = feed_.next();
    ensure(batch.has_value(), "step runner: the source of batches ended");
    part_tokens_ = batch->tokens;
    graphs_.run({GraphWork::training, batch->shape}, [&] {
      backward((*experiment_.objective)(experiment_.model, batch->tensors, true, state.score()).loss);
    });
    outcome.tokens += batch->tokens;
    outcome.samples.insert(outcome.samples.end(), batch->samples.begin(), batch->samples.end());
  }
  reduce();
  graphs_.run({GraphWork::update, {}}, [&] { experiment_.optimizer.step(state); });
  pending_.push_back(std::move(outcome));
  fetch();
  feed_.prefetch();
}

void StepRunner::reduce() {
  communicator_.sum(experiment_.store.gradients());
  if (communicator_.size() == 1) return;
  ScoreTotals& score = *experiment_.state.score();  // in host memory: see the constructor
  std::array totals{score.loss, score.correct, score.examples};
  communicator_.sum(totals);
  score = {totals[0], totals[1], totals[2]};
}

/// Enqueues the copies of the state and of the sums of squares behind it.
void StepRunner::fetch() {
  if (slots_.empty()) return;
  const int index = experiment_.device().index;
  Slot& slot = slots_[next_slot_];
  next_slot_ = (next_slot_ + 1) % slots_.size();
  const Tensor& squares = experiment_.optimizer.squares();
  copy_bytes(index, experiment_.state.state(), slot.memory.data(), sizeof(StepState));
  copy_bytes(index, squares.address(), slot.memory.data() + sizeof(StepState),
             static_cast<std::size_t>(squares.count()) * sizeof(double));
  slot.written.record(index);
}

StepOutcome StepRunner::take() {
  ensure(!pending_.empty(), "step runner: no update is pending");
  StepOutcome outcome = std::move(pending_.front());
  pending_.pop_front();
  std::vector<double> squares;
  if (slots_.empty()) {
    outcome.state = experiment_.state.read();
    if (!outcome.state.is_finite) squares = experiment_.optimizer.squares().to_vector<double>();
  } else {
    const Slot& slot = slots_[(next_slot_ + slots_.size() - 1 - pending_.size()) % slots_.size()];
    slot.written.wait();
    std::memcpy(&outcome.state, slot.memory.data(), sizeof(StepState));
    squares.resize(static_cast<std::size_t>(experiment_.optimizer.squares().count()));
    std::memcpy(squares.data(), slot.memory.data() + sizeof(StepState), squares.size() * sizeof(double));
  }
  if (outcome.state.is_finite) return outcome;
  outcome.gradient_norms = experiment_.optimizer.gradient_norms(squares);
  for (double& norm : outcome.gradient_norms) norm /= std::max(outcome.state.score.examples, 1.0);
  return outcome;
}

std::int64_t StepRunner::peak_bytes() const {
  return slots_.empty() ? memory_statistics().peak_bytes : graphs_.peak_bytes();
}

}  // namespace tern
