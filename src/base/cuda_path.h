// Which of several kernels serves a function.
#pragma once

namespace tern {

/// Logs that `function` on bfloat16 heads of `width` columns runs on `path`, once for each combination in this
/// process.
void log_path(const char* function, int width, const char* path);

}  // namespace tern
