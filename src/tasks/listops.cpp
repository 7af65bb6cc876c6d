#include "tasks/kinds.h"
#include "tasks/listops_generator.h"

namespace tern::tasks {
namespace {

/// ListOps as protocol B reads it: 2,000 places, padded to 2,048, 32 rows in the token table of which 16 are
/// used.
struct ListopsConfig {
  std::filesystem::path data = "data/prepared/listops";
  std::int64_t max_length = 2000;
  std::int64_t padded_length = 2048;
  std::int64_t vocabulary = 32;
  void fields(Fields& f) {
    f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
    f("max_length", max_length, "places kept of each sequence", between(1, 1 << 24));
    f("padded_length", padded_length,
      "published padded length: rows of the position table, divisor of padded_mean", between(1, 1 << 24));
    f("vocabulary", vocabulary, "rows of the token table", between(listops_vocabulary, 1 << 24));
    f.require(padded_length >= max_length, "padded_length",
              format_text("must be at least task.max_length ({})", max_length));
  }
};

}  // namespace

TaskKind listops_task() {
  return {"listops", "nested list operations (Long Range Arena)",
          choice_kind<ListopsConfig>("listops", "nested list operations (Long Range Arena)"),
          [](const Choice& choice) {
            const auto& config = choice.as<ListopsConfig>();
            Task task;
            task.interface = {config.vocabulary, config.padded_length, listops_classes, false};
            task.interface.ids = listops_vocabulary;
            task.train = config.data / "train.records";
            task.dev = config.data / "dev.records";
            task.test = config.data / "test.records";
            task.max_length = config.max_length;
            task.prepare_command = "tern data prepare listops --out " + config.data.string() +
                                   " (--help lists options for shorter variants)";
            return task;
          }};
}

}  // namespace tern::tasks
