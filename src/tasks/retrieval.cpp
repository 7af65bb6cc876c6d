#include "tasks/bytes.h"
#include "tasks/kinds.h"
#include "tasks/retrieval_source.h"

namespace tern::tasks {
namespace {

/// Retrieval as protocol B reads it: two texts of 4,000 bytes, each padded to 4,096, 512 rows in the token
/// table.
struct RetrievalConfig {
  std::filesystem::path data = "data/prepared/retrieval";
  std::int64_t max_length = 4000;
  std::int64_t padded_length = 4096;
  std::int64_t vocabulary = 512;
  void fields(Fields& f) {
    f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
    f("max_length", max_length, "bytes kept of each text, of those that were prepared",
      between(1, retrieval_text_cap));
    f("padded_length", padded_length,
      "published padded length: rows of the position table, divisor of padded_mean", between(1, 1 << 24));
    f("vocabulary", vocabulary, "rows of the token table", between(byte_vocabulary, 1 << 24));
    f.require(padded_length >= max_length, "padded_length",
              format_text("must be at least task.max_length ({})", max_length));
  }
};

}  // namespace

TaskKind retrieval_task() {
  constexpr std::string_view summary = "does one paper cite the other? by bytes (Long Range Arena)";
  return {"retrieval", summary, choice_kind<RetrievalConfig>("retrieval", summary), [](const Choice& choice) {
            const auto& config = choice.as<RetrievalConfig>();
            Task task;
            task.interface = {config.vocabulary, config.padded_length, retrieval_classes, true};
            task.interface.ids = byte_vocabulary;
            task.train = split_file(config.data, "train");
            task.dev = split_file(config.data, "dev");
            task.test = split_file(config.data, "test");
            task.max_length = config.max_length;
            task.class_names = {"unrelated", "cites"};
            task.text_columns = {{"text1", "text2"}, false};
            task.prepare_command =
                "tern data prepare retrieval --from lra_release.gz --out " + config.data.string();
            return task;
          }};
}

}  // namespace tern::tasks
