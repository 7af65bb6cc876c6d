// One declaration for each task; its definition is the file of its name.
#pragma once

#include "tern/task.h"

namespace tern::tasks {

TaskKind listops_task();
TaskKind text_task();
TaskKind retrieval_task();
TaskKind image_task();
TaskKind pathfinder_task();
TaskKind classification_task();
TaskKind pair_task();
TaskKind regression_task();

}  // namespace tern::tasks
