#include <algorithm>
#include <memory>

#include "tern/ops.h"
#include "tern/trainer.h"
#include "training/device_batch.h"
#include "training/splits.h"

namespace tern {
namespace {

/// Sums over batches, turned into means at the end.
struct Totals {
  double loss = 0;
  std::int64_t correct = 0, examples = 0;
  Score score() const {
    const auto count = static_cast<double>(std::max<std::int64_t>(examples, 1));
    return {examples, loss / count, static_cast<double>(correct) / count};
  }
};

}  // namespace

DeviceBatch to_device(const data::Batch& batch) {
  return {from_vector(batch.tokens, {static_cast<std::int64_t>(batch.tokens.size())}),
          make_layout(batch.offsets, batch.position, batch.sample, batch.padded_length),
          from_vector(batch.labels, {static_cast<std::int64_t>(batch.labels.size())})};
}

std::int64_t count_correct(const Tensor& logits, const Tensor& labels) {
  const std::vector<double> values = logits.to_vector<double>();
  const std::vector<std::int32_t> expected = labels.to_vector<std::int32_t>();
  const auto classes = static_cast<std::size_t>(logits.size(1));
  std::int64_t correct = 0;
  for (std::size_t r = 0; r < expected.size(); ++r) {
    const auto row = values.begin() + static_cast<std::ptrdiff_t>(r * classes);
    correct += std::max_element(row, row + static_cast<std::ptrdiff_t>(classes)) - row == expected[r];
  }
  return correct;
}

TestScore evaluate(Experiment& experiment, const std::filesystem::path& records, std::int64_t limit) {
  const NoGradientScope no_gradient;
  const auto file = std::make_shared<const data::RecordFile>(records);
  const data::LoaderOptions options = evaluation_loader_options(experiment);
  data::EvalLoader loader(file, options);
  Totals all, whole_batches;
  for (std::int64_t done = 0; limit == 0 || done < limit; ++done) {
    const std::optional<data::Batch> batch = loader.next();
    if (!batch || stop_requested()) break;
    const DeviceBatch x = to_device(*batch);
    const Tensor logits = experiment.model(x.tokens, x.layout, false);
    const Totals part{cross_entropy(logits, x.labels).item(), count_correct(logits, x.labels), batch->records};
    for (Totals* totals : {&all, &whole_batches}) {
      if (totals == &whole_batches && batch->records < options.batch_size) continue;
      totals->loss += part.loss;
      totals->correct += part.correct;
      totals->examples += part.examples;
    }
  }
  return {all.score(), whole_batches.score()};
}

}  // namespace tern
