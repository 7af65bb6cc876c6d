// The list of tasks.
#include <algorithm>

#include "tasks/kinds.h"

namespace tern {

const std::vector<TaskKind>& task_kinds() {
  static const std::vector all{tasks::listops_task(), tasks::text_task(),       tasks::retrieval_task(),
                               tasks::image_task(),   tasks::pathfinder_task(), tasks::classification_task(),
                               tasks::pair_task(),    tasks::regression_task()};
  return all;
}

std::span<const ChoiceKind> task_choices() {
  static const std::vector choices = [] {
    std::vector<ChoiceKind> out;
    for (const TaskKind& kind : task_kinds()) out.push_back(kind.config);
    return out;
  }();
  return choices;
}

Task make_task(const Choice& config) {
  const auto& kinds = task_kinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(),
                                  [&](const TaskKind& kind) { return kind.name == config.kind(); });
  ensure(found != kinds.end(), "task: no kind {}", config.kind());
  Task task = found->make(config);
  task.name = config.kind();
  return task;
}

}  // namespace tern
