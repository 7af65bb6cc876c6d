// What training minimises, and the score that goes with it.
#pragma once

#include <memory>

#include "tern/encoder.h"
#include "tern/module.h"
#include "tern/step_state.h"
#include "tern/task.h"

namespace tern {

struct DeviceBatch;

/// Means over targets: the examples of a task with labels, or the masked tokens.
struct Score {
  std::int64_t examples = 0;         ///< targets
  double loss = 0;                   ///< cross-entropy, or squared error of a regression
  double accuracy = 0;               ///< not of a regression
  double pearson = 0, spearman = 0;  ///< of a regression's predictions with the targets; 0 where undefined
};

/// What the best checkpoint on dev is chosen by: the highest accuracy, where the lower loss decides between
/// equal ones, or the lowest loss.
enum class Selection { accuracy, loss };

class Objective {
 public:
  struct Outcome {
    Tensor loss;     ///< sum over targets, []
    Tensor outputs;  ///< what the model predicts, for each example or token
  };
  virtual ~Objective() = default;
  /// Enqueues its work and does not wait. Sums over targets are added to `score`, in memory of the device.
  virtual Outcome operator()(Model& model, const DeviceBatch& batch, bool training,
                             ScoreTotals* score) const = 0;
  virtual Selection selection() const = 0;
  /// Whether predictions are classes, which can be right or wrong.
  virtual bool has_accuracy() const = 0;

  bool is_better(const Score& score, const Score& best) const;
};

/// labels: the task's own, cross-entropy of classes or squared error of numbers; chosen by accuracy, a
/// regression by its loss. masked_tokens: predicting hidden tokens of the inputs; chosen by the loss.
std::span<const ChoiceKind> objective_choices();

/// `task` as the objective trains on it: its interface says what the model predicts.
Task task_for(const Choice& objective, Task task);

/// Throws Error(bad_config) for masked tokens where the token table has no row for the mask: row 0 where the
/// task masks zeros, else the row after the data's last id.
std::unique_ptr<Objective> make_objective(const Choice& objective, const Task& task,
                                          const ParameterStore& store);

}  // namespace tern
