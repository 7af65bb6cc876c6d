#include "tasks/bytes.h"
#include "tasks/kinds.h"
#include "tasks/prepared_task.h"
#include "tasks/text_source.h"

namespace tern::tasks {
namespace {

/// Text as protocol B reads it: 4,000 bytes, padded to 4,096, 512 rows in the token table of which 257 are
/// used.
struct TextConfig : SequenceConfig {
  TextConfig() : SequenceConfig{"data/prepared/text", 4000, 4096, 512} {}
  void fields(Fields& f) {
    SequenceConfig::fields(f, byte_vocabulary,
                           "bytes kept of each review; published work used 4000, and also 1000");
  }
};

}  // namespace

TaskKind text_task() {
  constexpr std::string_view summary = "movie reviews by bytes: positive or negative (Long Range Arena)";
  return {"text", summary, choice_kind<TextConfig>("text", summary), [](const Choice& choice) {
            const auto& config = choice.as<TextConfig>();
            Task task = config.task(text_classes, byte_vocabulary);
            task.class_names = {"negative", "positive"};
            task.text_columns = {{"text"}, false};
            task.prepare_command =
                "tern data prepare text --from aclImdb_v1.tar.gz --out " + config.data.string();
            return task;
          }};
}

}  // namespace tern::tasks
