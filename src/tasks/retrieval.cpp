#include "tasks/bytes.h"
#include "tasks/kinds.h"
#include "tasks/prepared_task.h"
#include "tasks/retrieval_source.h"

namespace tern::tasks {
namespace {

/// Retrieval as protocol B reads it: two texts of 4,000 bytes, each padded to 4,096, 512 rows in the token
/// table.
struct RetrievalConfig : SequenceConfig {
  RetrievalConfig() : SequenceConfig{"data/prepared/retrieval", 4000, 4096, 512} {}
  void fields(Fields& f) {
    SequenceConfig::fields(f, byte_vocabulary, "bytes kept of each text, of those that were prepared",
                           retrieval_text_cap);
  }
};

}  // namespace

TaskKind retrieval_task() {
  constexpr std::string_view summary = "does one paper cite the other? by bytes (Long Range Arena)";
  return {"retrieval", summary, choice_kind<RetrievalConfig>("retrieval", summary), [](const Choice& choice) {
            const auto& config = choice.as<RetrievalConfig>();
            Task task = config.task(retrieval_classes, byte_vocabulary, true);
            task.class_names = {"unrelated", "cites"};
            task.text_columns = {{"text1", "text2"}, false};
            task.prepare_command =
                "tern data prepare retrieval --from lra_release.gz --out " + config.data.string();
            return task;
          }};
}

}  // namespace tern::tasks
