#include "tasks/bytes.h"
#include "tasks/kinds.h"
#include "tasks/text_source.h"

namespace tern::tasks {
namespace {

/// Text as protocol B reads it: 4,000 bytes, padded to 4,096, 512 rows in the token table of which 257 are
/// used.
struct TextConfig {
  std::filesystem::path data = "data/prepared/text";
  std::int64_t max_length = 4000;
  std::int64_t padded_length = 4096;
  std::int64_t vocabulary = 512;
  void fields(Fields& f) {
    f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
    f("max_length", max_length, "bytes kept of each review; published work used 4000, and also 1000",
      between(1, 1 << 24));
    f("padded_length", padded_length,
      "published padded length: rows of the position table, divisor of padded_mean", between(1, 1 << 24));
    f("vocabulary", vocabulary, "rows of the token table", between(byte_vocabulary, 1 << 24));
    f.require(padded_length >= max_length, "padded_length",
              format_text("must be at least task.max_length ({})", max_length));
  }
};

}  // namespace

TaskKind text_task() {
  constexpr std::string_view summary = "movie reviews by bytes: positive or negative (Long Range Arena)";
  return {"text", summary, choice_kind<TextConfig>("text", summary), [](const Choice& choice) {
            const auto& config = choice.as<TextConfig>();
            Task task;
            task.interface = {config.vocabulary, config.padded_length, text_classes, false};
            task.interface.ids = byte_vocabulary;
            task.train = split_file(config.data, "train");
            task.dev = split_file(config.data, "dev");
            task.test = split_file(config.data, "test");
            task.max_length = config.max_length;
            task.class_names = {"negative", "positive"};
            task.text_columns = {{"text"}, false};
            task.prepare_command =
                "tern data prepare text --from aclImdb_v1.tar.gz --out " + config.data.string();
            return task;
          }};
}

}  // namespace tern::tasks
