// One declaration for each task; its definition is the file of its name.
#pragma once

#include "tern/task.h"

namespace tern::tasks {

TaskKind listops_task();

}  // namespace tern::tasks
