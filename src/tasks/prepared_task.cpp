#include "tasks/prepared_task.h"

#include "tasks/prepared_data.h"

namespace tern::tasks {

Task prepared_task(const std::filesystem::path& data, const TaskInterface& interface) {
  Task task;
  task.interface = interface;
  task.train = split_file(data, "train");
  task.dev = split_file(data, "dev");
  task.test = split_file(data, "test");
  return task;
}

void SequenceConfig::fields(Fields& f, std::int64_t ids, std::string_view kept, std::int64_t longest) {
  f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
  f("max_length", max_length, kept, between(1, static_cast<double>(longest)));
  f("padded_length", padded_length,
    "published padded length: rows of the position table, divisor of padded_mean", between(1, 1 << 24));
  f("vocabulary", vocabulary, "rows of the token table", between(static_cast<double>(ids), 1 << 24));
  f.require(padded_length >= max_length, "padded_length",
            format_text("must be at least task.max_length ({})", max_length));
}

Task SequenceConfig::task(std::int64_t classes, std::int64_t ids, bool is_pair) const {
  Task task = prepared_task(data, {.vocabulary = vocabulary,
                                   .padded_length = padded_length,
                                   .outputs = classes,
                                   .is_pair = is_pair,
                                   .ids = ids});
  task.max_length = max_length;
  return task;
}

}  // namespace tern::tasks
