#include "training/predict.h"

#include "training/step_runner.h"

namespace tern {

void predict(Experiment& experiment, const BatchSource& batches, std::int64_t largest_batch,
             const OutputReceiver& receive) {
  require(
      !experiment.task.interface.predicts_tokens,
      "predict: the model must have been trained on labels, got one that predicts hidden tokens; train it on "
      "labels with training.start_from");
  const NoGradientScope no_gradient;
  BatchFeed feed(experiment.device(), batches, largest_batch_bytes(experiment, largest_batch));
  while (const std::optional<FedBatch> batch = feed.next()) {
    const Tensor outputs = experiment.model(batch->tensors.tokens, batch->tensors.layout, false);
    feed.prefetch();
    receive(batch->records, outputs.to_vector<double>());
  }
}

}  // namespace tern
