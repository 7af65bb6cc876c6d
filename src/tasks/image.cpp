#include "tasks/image_source.h"
#include "tasks/kinds.h"
#include "tasks/prepared_task.h"

namespace tern::tasks {
namespace {

/// Image as protocol B reads it: 1,024 pixels, 512 rows in the token table of which 256 are used, black pixels
/// masked.
struct ImageConfig {
  std::filesystem::path data = "data/prepared/image";
  std::int64_t vocabulary = 512;
  bool mask_zero = true;
  void fields(Fields& f) {
    f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
    f("vocabulary", vocabulary, "rows of the token table", between(image_vocabulary, 1 << 24));
    f("mask_zero", mask_zero, "leave black pixels out, as published: their value is the id of padding");
  }
};

}  // namespace

TaskKind image_task() {
  constexpr std::string_view summary = "grey CIFAR-10, pixel by pixel (Long Range Arena)";
  return {"image", summary, choice_kind<ImageConfig>("image", summary), [](const Choice& choice) {
            const auto& config = choice.as<ImageConfig>();
            Task task = prepared_task(config.data, {.vocabulary = config.vocabulary,
                                                    .padded_length = image_pixels,
                                                    .outputs = image_classes,
                                                    .ids = image_vocabulary});
            task.max_length = image_pixels;
            task.mask_zero = config.mask_zero;
            task.class_names = {"airplane", "automobile", "bird",  "cat",  "deer",
                                "dog",      "frog",       "horse", "ship", "truck"};
            task.prepare_command =
                "tern data prepare image --from cifar-10-binary.tar.gz --out " + config.data.string();
            return task;
          }};
}

}  // namespace tern::tasks
