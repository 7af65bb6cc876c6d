#include "tasks/kinds.h"
#include "tasks/listops_generator.h"
#include "tasks/prepared_task.h"

namespace tern::tasks {
namespace {

/// ListOps as protocol B reads it: 2,000 places, padded to 2,048, 32 rows in the token table of which 16 are
/// used.
struct ListopsConfig : SequenceConfig {
  ListopsConfig() : SequenceConfig{"data/prepared/listops", 2000, 2048, 32} {}
  void fields(Fields& f) { SequenceConfig::fields(f, listops_vocabulary, "places kept of each sequence"); }
};

}  // namespace

TaskKind listops_task() {
  return {"listops", "nested list operations (Long Range Arena)",
          choice_kind<ListopsConfig>("listops", "nested list operations (Long Range Arena)"),
          [](const Choice& choice) {
            const auto& config = choice.as<ListopsConfig>();
            Task task = config.task(listops_classes, listops_vocabulary);
            task.prepare_command = "tern data prepare listops --out " + config.data.string() +
                                   " (--help lists options for shorter variants)";
            return task;
          }};
}

}  // namespace tern::tasks
