#include "tasks/pathfinder_parameters.h"

#include "tern/error.h"

namespace tern::tasks::pathfinder {
namespace {

constexpr std::string_view names[] = {"easy", "intermediate", "hard"};
constexpr int lengths[] = {6, 9, 14};

}  // namespace

std::string_view name(Difficulty difficulty) { return names[static_cast<int>(difficulty)]; }

Difficulty difficulty_named(std::string_view text) {
  for (const Difficulty difficulty : difficulties)
    if (name(difficulty) == text) return difficulty;
  throw_error(ExitCode::failed, "pathfinder: the difficulty must be easy, intermediate or hard, got {}", text);
}

Parameters parameters_of(int size, Difficulty difficulty) {
  Parameters out;
  int clutter = 0;  // paddles of all distractors together
  switch (size) {
    case 32:  // thin lines lose half of their brightness when they are shrunk: hence contrasts above 1
      out = {size, 1, {1}, 7, 1.5, 2, 0.5, 1.0, 1.5, 2.0};
      clutter = 20;
      break;
    case 64:
      out = {size, 1, {1}, 12, 2.5, 5, 1.0, 1.8, 0.8, 0.8};
      clutter = 22;
      break;
    case 128:
      out = {size, 1, {2, 3}, 20, 3.0, 5, 1.5, 1.8, 0.9, 0.9};
      clutter = 35;
      break;
    case 256:
      out = {size, 22, {3}, 27, 5.0, 5, 2.0, 1.8, 1.0, 1.0};
      clutter = 30;
      break;
    default:
      throw_error(ExitCode::failed, "pathfinder: the size must be 32, 64, 128 or 256, got {}", size);
  }
  out.contour_length = lengths[static_cast<int>(difficulty)];
  out.distractor_length = out.contour_length / 3;
  out.distractors = clutter / out.distractor_length;
  return out;
}

}  // namespace tern::tasks::pathfinder
