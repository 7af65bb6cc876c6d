// Which of several kernels serves a function.
#pragma once

#include <string>
#include <vector>

namespace tern {

/// Logs that `function` on heads of `width` columns of type `type` runs on `path`, once for each combination in
/// this process.
void log_path(const char* function, int width, const char* path, const char* type = "bfloat16");
/// What log_path() was told since the last call, as "function: path", each combination once; empty without
/// CUDA.
std::vector<std::string> take_reported_paths();

}  // namespace tern
