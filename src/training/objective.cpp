#include "tern/objective.h"

#include "tern/ops.h"
#include "training/device_batch.h"

namespace tern {
namespace {

struct LabelsConfig {
  void fields(Fields&) {}
};

struct MaskedTokensConfig {
  double rate = 0.15;
  double masked = 0.8, replaced = 0.1;
  void fields(Fields& f) {
    f("rate", rate, "probability of a token to be predicted", above(0) && at_most(1));
    f("masked", masked, "share of these that the encoder sees as the mask", between(0, 1));
    f("replaced", replaced, "share of these that it sees as a random id; the rest it sees as they are",
      between(0, 1));
    f.require(masked + replaced <= 1, "replaced",
              format_text("must be at most 1 - objective.masked ({})", masked));
  }
};

/// Cross-entropy of each example's class.
class ClassLabels final : public Objective {
 public:
  Outcome operator()(Model& model, const DeviceBatch& batch, bool training, ScoreTotals* score) const override {
    const Tensor logits = model(batch.tokens, batch.layout, training);
    return {cross_entropy(logits, batch.labels, score), logits};
  }
  Selection selection() const override { return Selection::accuracy; }
  bool has_accuracy() const override { return true; }
};

/// Squared error of each example's number.
class NumberLabels final : public Objective {
 public:
  Outcome operator()(Model& model, const DeviceBatch& batch, bool training, ScoreTotals* score) const override {
    const Tensor numbers = model(batch.tokens, batch.layout, training);
    return {squared_error(reshape(numbers, {numbers.size(0)}), batch.targets, score), numbers};
  }
  Selection selection() const override { return Selection::loss; }
  bool has_accuracy() const override { return false; }
};

/// Cross-entropy of the ids of hidden tokens. All tokens go through the head, and those not chosen have weight
/// 0: how many are chosen changes no shape.
class MaskedTokenIds final : public Objective {
 public:
  MaskedTokenIds(const MaskedTokensConfig& config, const Task& task, const ParameterStore& store);
  Outcome operator()(Model& model, const DeviceBatch& batch, bool training, ScoreTotals* score) const override;
  Selection selection() const override { return Selection::loss; }
  bool has_accuracy() const override { return true; }

 private:
  DType dtype_;
  Tensor fixed_step_;  ///< evaluations draw the same masks whenever they run
  TokenMaskOptions training_, evaluation_;
};

std::int32_t mask_row(const Task& task, std::int64_t ids) {
  if (task.mask_zero) return 0;  // no token of a batch has id 0
  if (ids >= task.interface.vocabulary)
    throw_error(ExitCode::bad_config,
                "objective.kind: masked_tokens needs a row of the token table for the mask, got {} rows for {} "
                "ids of the data; raise task.vocabulary",
                task.interface.vocabulary, ids);
  return static_cast<std::int32_t>(ids);
}

MaskedTokenIds::MaskedTokenIds(const MaskedTokensConfig& config, const Task& task, const ParameterStore& store)
    : dtype_(store.dtype()), fixed_step_(zeros({1}, DType::int32, store.device())) {
  const std::int64_t ids = task.interface.ids > 0 ? task.interface.ids : task.interface.vocabulary;
  training_.rate = config.rate;
  training_.masked = config.masked;
  training_.replaced = config.replaced;
  training_.mask_id = mask_row(task, ids);
  training_.first_id = task.mask_zero ? 1 : 0;
  training_.last_id = static_cast<std::int32_t>(ids);
  if (training_.first_id >= training_.last_id)
    throw_error(ExitCode::bad_config, "objective.kind: masked_tokens needs tokens of at least one id, got {}",
                ids - training_.first_id);
  training_.stream = store.stream("objective.masked_tokens");
  evaluation_ = training_;
  evaluation_.stream = {store.stream("objective.masked_tokens.evaluation").key,
                        reinterpret_cast<const std::uint32_t*>(fixed_step_.address())};
}

Objective::Outcome MaskedTokenIds::operator()(Model& model, const DeviceBatch& batch, bool training,
                                              ScoreTotals* score) const {
  const MaskedTokens masked =
      mask_tokens(batch.tokens, batch.layout, training ? training_ : evaluation_, dtype_);
  const Tensor logits = model(masked.tokens, batch.layout, training);
  return {cross_entropy(logits, batch.tokens, masked.weights, score), logits};
}

constexpr std::string_view labels = "labels", masked_tokens = "masked_tokens";

}  // namespace

bool Objective::is_better(const Score& score, const Score& best) const {
  if (selection() == Selection::accuracy && score.accuracy != best.accuracy)
    return score.accuracy > best.accuracy;
  return score.loss < best.loss;
}

std::span<const ChoiceKind> objective_choices() {
  static const std::vector<ChoiceKind> choices{
      choice_kind<LabelsConfig>(labels,
                                "the task's labels: cross-entropy of classes, squared error of numbers"),
      choice_kind<MaskedTokensConfig>(
          masked_tokens, "predicting hidden tokens of the inputs (Devlin et al. 2019): pre-training")};
  return choices;
}

Task task_for(const Choice& objective, Task task) {
  task.interface.predicts_tokens = objective.kind() == masked_tokens;
  return task;
}

std::unique_ptr<Objective> make_objective(const Choice& objective, const Task& task,
                                          const ParameterStore& store) {
  if (objective.kind() == masked_tokens)
    return std::make_unique<MaskedTokenIds>(objective.as<MaskedTokensConfig>(), task, store);
  if (task.interface.is_regression) return std::make_unique<NumberLabels>();
  return std::make_unique<ClassLabels>();
}

}  // namespace tern
