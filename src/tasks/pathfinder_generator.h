// Pathfinder images: label, scene and pixels of sample i depend on (size, difficulty, seed, i) alone, so any
// subset of them on any number of threads is the same.
#pragma once

#include <cstdint>
#include <vector>

#include "tasks/pathfinder_growth.h"
#include "tern/random.h"

namespace tern::tasks::pathfinder {

class Generator {
 public:
  /// Error(failed) for a size that is not published.
  Generator(int size, Difficulty difficulty, std::uint64_t seed);

  const Parameters& parameters() const { return parameters_; }
  /// What is to be drawn. The label is 0 or 1 with equal chance. Safe to call from several threads.
  Scene scene(std::int64_t sample) const;
  /// Its pixels: the brightest line or disc at each place, stretched from least and greatest to 0 ... 255. Safe
  /// to call from several threads.
  Canvas draw(const Scene& scene) const;

 private:
  struct Paddles {  // of one margin
    Shapes shapes;
    Space empty;
  };

  Parameters parameters_;
  PhiloxKey key_;
  std::vector<Paddles> paddles_;  // one for each margin
  Shrinking shrink_;
};

}  // namespace tern::tasks::pathfinder
