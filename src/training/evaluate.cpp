#include <algorithm>
#include <memory>

#include "tern/trainer.h"
#include "training/batch_feed.h"
#include "training/correlation.h"
#include "training/splits.h"
#include "training/step_runner.h"

namespace tern {
namespace {

/// Sums of whole batches and of the last, smaller one, in memory of the device.
struct Totals {
  ScoreTotals whole, rest;
};

Score score_of(const ScoreTotals& totals) {
  const double count = std::max(totals.examples, 1.0);
  return {static_cast<std::int64_t>(totals.examples), totals.loss / count, totals.correct / count, 0, 0};
}

ScoreTotals operator+(const ScoreTotals& a, const ScoreTotals& b) {
  return {a.loss + b.loss, a.correct + b.correct, a.examples + b.examples};
}

Totals read(const Tensor& memory) {
  const std::vector<std::uint8_t> bytes = memory.to_vector<std::uint8_t>();
  Totals totals;
  std::memcpy(&totals, bytes.data(), sizeof totals);
  return totals;
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

TestScore evaluate(Experiment& experiment, const std::filesystem::path& records, std::int64_t limit) {
  const NoGradientScope no_gradient;
  const auto file = std::make_shared<const data::RecordFile>(records);
  const TrainingConfig& training = experiment.config.training;
  const TaskInterface& task = experiment.task.interface;
  const bool is_regression = task.is_regression && !task.predicts_tokens;
  data::LoaderOptions options = evaluation_loader_options(experiment);
  options.batch_size /= training.accumulate;  // what training finds memory for
  data::EvalLoader loader(file, options);
  BatchFeed feed(
      experiment.device(), [&loader] { return loader.next(); },
      largest_batch_bytes(experiment, std::min(options.batch_size, file->count())));
  const Tensor memory = zeros({sizeof(Totals)}, DType::uint8, experiment.device());
  auto* totals = reinterpret_cast<Totals*>(memory.address());
  const std::int64_t in_whole_batches = file->count() / training.batch_size * training.batch_size;
  const std::int64_t wanted = limit == 0 ? file->count() : limit * training.batch_size;
  std::vector<Tensor> numbers;  // a regression's; fetched in the end, so that nothing waits between batches
  for (std::int64_t done = 0; done < wanted;) {
    const std::optional<FedBatch> batch = feed.next();
    if (!batch || stop_requested()) break;
    done += batch->records;
    const bool is_whole = done <= in_whole_batches;
    const auto outcome = (*experiment.objective)(experiment.model, batch->tensors, false,
                                                 is_whole ? &totals->whole : &totals->rest);
    if (is_regression) numbers.push_back(outcome.outputs);
    feed.prefetch();
  }
  const Totals sums = read(memory);
  TestScore score{score_of(sums.whole + sums.rest), score_of(sums.whole)};
  if (!is_regression) return score;
  std::vector<double> predictions;
  for (const Tensor& part : numbers)
    for (const double number : part.to_vector<double>()) predictions.push_back(number);
  correlate(predictions, *file, score.all);
  correlate(predictions, *file, score.drop_last);
  return score;
}

}  // namespace tern
