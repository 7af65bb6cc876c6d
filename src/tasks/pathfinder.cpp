// The task pathfinder, for images of any published size; size 128 is Path-X.
#include "tasks/kinds.h"
#include "tasks/pathfinder_data.h"
#include "tasks/prepared_task.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

/// As protocol B reads it: grey levels are ids, and black pixels are absent as padding is.
struct PathfinderConfig {
  std::filesystem::path data = "data/prepared/pathfinder32";
  int size = 32;
  std::int64_t vocabulary = 512;
  bool mask_zero = true;
  void fields(Fields& f) {
    f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
    f("size", size, "rows and columns of an image: 32, 64, 128 (Path-X) or 256; positions are its square",
      one_of({32, 64, 128, 256}));
    f("vocabulary", vocabulary, "rows of the token table", between(pathfinder::grey_levels, 1 << 24));
    f("mask_zero", mask_zero, "leave black pixels out, as published; false: they are tokens like others");
  }
};

/// Data of another size would be read as if their rows had another length.
void require_size(const std::filesystem::path& path, std::int64_t length) {
  if (!std::filesystem::exists(path)) return;
  const data::RecordHeader header = data::RecordFile(path).header();
  if (header.task != "pathfinder" || header.padded_length != length)
    throw_error(ExitCode::bad_data,
                "{}: must hold pathfinder images of {} pixels, got {} data of {}; set task.size "
                "or task.data",
                path, length, header.task, header.padded_length);
}

}  // namespace

TaskKind pathfinder_task() {
  constexpr std::string_view summary = "whether two discs lie on one dashed curve (Long Range Arena)";
  return {"pathfinder", summary, choice_kind<PathfinderConfig>("pathfinder", summary),
          [](const Choice& choice) {
            const auto& config = choice.as<PathfinderConfig>();
            const std::int64_t pixels = std::int64_t{config.size} * config.size;
            Task task = prepared_task(config.data, {.vocabulary = config.vocabulary,
                                                    .padded_length = pixels,
                                                    .outputs = pathfinder::classes,
                                                    .ids = pathfinder::grey_levels});
            task.max_length = pixels;
            task.mask_zero = config.mask_zero;
            task.class_names = {"apart", "connected"};
            task.prepare_command =
                format_text("tern data prepare pathfinder --size {} --out {}", config.size, config.data);
            require_size(task.train, pixels);
            return task;
          }};
}

}  // namespace tern::tasks
