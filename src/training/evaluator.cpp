#include "training/evaluator.h"

#include <algorithm>

#include "core/accumulate.h"
#include "training/correlation.h"
#include "training/splits.h"
#include "training/step_runner.h"

namespace tern {
namespace {

static_assert(sizeof(ScoreTotals) == 3 * sizeof(double));

data::LoaderOptions loader_options(const Experiment& experiment) {
  data::LoaderOptions options = evaluation_loader_options(experiment);
  options.batch_size = part_records(experiment);  // what training finds memory for
  return options;
}

Score score_of(const ScoreTotals& totals) {
  const double count = std::max(totals.examples, 1.0);
  return {static_cast<std::int64_t>(totals.examples), totals.loss / count, totals.correct / count, 0, 0};
}

ScoreTotals operator+(const ScoreTotals& a, const ScoreTotals& b) {
  return {a.loss + b.loss, a.correct + b.correct, a.examples + b.examples};
}

/// One row of Evaluator::sums_, as it was fetched.
ScoreTotals totals_in(const std::vector<double>& sums, std::size_t row) {
  return {sums[3 * row], sums[3 * row + 1], sums[3 * row + 2]};
}

/// Adds the correlations of the first records' predictions with their targets.
void correlate(const std::vector<double>& predictions, const data::RecordFile& file, Score& score) {
  std::vector<double> targets;
  for (std::int64_t r = 0; r < score.examples; ++r) targets.push_back(file.target(r));
  const auto predicted = std::span(predictions).first(targets.size());
  score.pearson = pearson_correlation(predicted, targets);
  score.spearman = spearman_correlation(predicted, targets);
}

}  // namespace

Evaluator::Evaluator(Experiment& experiment, GraphCache& graphs)
    : experiment_(experiment),
      graphs_(graphs),
      feed_(
          experiment.device(), [] { return std::nullopt; },
          largest_batch_bytes(experiment, part_records(experiment))),
      sums_(zeros({2, 3}, DType::float64, experiment.device())) {
  const TaskInterface& task = experiment.task.interface;
  if (task.is_regression && !task.predicts_tokens)
    outputs_ = empty({part_records(experiment)}, DType::float64, experiment.device());
}

TestScore Evaluator::score(const std::shared_ptr<const data::RecordFile>& file, std::int64_t limit) {
  const NoGradientScope no_gradient;
  const std::int64_t batch_size = experiment_.config.training.batch_size;
  const std::int64_t in_whole_batches = file->count() / batch_size * batch_size;
  const std::int64_t wanted = limit == 0 ? file->count() : std::min(file->count(), limit * batch_size);
  const Tensor running = sums_.narrowed(0, 0, 1), whole = sums_.narrowed(0, 1, 1);
  // Fetched in the end, so that nothing waits between batches.
  const Tensor predictions =
      outputs_.defined() ? empty({file->count()}, DType::float64, experiment_.device()) : Tensor();
  const auto loader = std::make_shared<data::EvalLoader>(file, loader_options(experiment_));
  feed_.restart([loader] { return loader->next(); });
  clear(running);
  std::int64_t done = 0;
  while (done < wanted) {
    const std::optional<FedBatch> batch = feed_.next();
    if (!batch || stop_requested()) break;
    if (done == in_whole_batches) {  // what follows is the last, smaller batch
      copy(running, whole);
      clear(running);
    }
    add(*batch);
    if (predictions.defined())
      copy(outputs_.narrowed(0, 0, batch->records), predictions.narrowed(0, done, batch->records));
    done += batch->records;
    if (done < wanted) feed_.prefetch();
  }
  feed_.restart([] { return std::nullopt; });  // ends the loader's thread
  const std::vector<double> sums = sums_.to_vector<double>();
  const bool has_rest = done > in_whole_batches;
  const ScoreTotals of_whole = totals_in(sums, has_rest ? 1 : 0);
  const ScoreTotals of_rest = has_rest ? totals_in(sums, 0) : ScoreTotals{};
  TestScore score{score_of(of_whole + of_rest), score_of(of_whole)};
  if (!predictions.defined()) return score;
  const std::vector<double> numbers = predictions.narrowed(0, 0, done).to_vector<double>();
  correlate(numbers, *file, score.all);
  correlate(numbers, *file, score.drop_last);
  return score;
}

/// A graph has addresses baked in: of the feed's block, the parameters, the step, the sums and the outputs.
void Evaluator::add(const FedBatch& batch) {
  graphs_.run({GraphWork::evaluation, batch.shape}, [&] {
    const auto outcome = (*experiment_.objective)(experiment_.model, batch.tensors, false,
                                                  reinterpret_cast<ScoreTotals*>(sums_.address()));
    if (outputs_.defined())
      copy(outcome.outputs.reshaped({batch.records}), outputs_.narrowed(0, 0, batch.records));
  });
}

}  // namespace tern
