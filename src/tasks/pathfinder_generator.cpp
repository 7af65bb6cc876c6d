#include "tasks/pathfinder_generator.h"

#include <algorithm>
#include <cmath>

#include "tern/error.h"

namespace tern::tasks::pathfinder {
namespace {

/// Brightness of each pixel; 1 is a full line of contrast 1, or a disc.
class Picture {
 public:
  explicit Picture(int size)
      : size_(size), values_(static_cast<std::size_t>(size) * static_cast<std::size_t>(size)) {}

  /// Raises the pixels under a canvas centred at `middle`.
  void add(const Canvas& canvas, Pixel middle, double contrast) {
    const int half = canvas.size / 2;
    for (int y = std::max(0, half - middle.y); y < std::min(canvas.size, size_ + half - middle.y); ++y) {
      for (int x = std::max(0, half - middle.x); x < std::min(canvas.size, size_ + half - middle.x); ++x) {
        double& value = values_[static_cast<std::size_t>((middle.y - half + y) * size_ + middle.x - half + x)];
        value = std::max(value, contrast * canvas.at(y, x) / 255);
      }
    }
  }

  Canvas stretched() const {
    Canvas out(size_);
    const auto [least, greatest] = std::minmax_element(values_.begin(), values_.end());
    const double scale = 255 / (*greatest - *least);
    for (std::size_t i = 0; i < values_.size(); ++i)
      out.levels[i] = static_cast<std::uint8_t>((values_[i] - *least) * scale + 0.5);
    return out;
  }

 private:
  int size_;
  std::vector<double> values_;
};

}  // namespace

Generator::Generator(int size, Difficulty difficulty, std::uint64_t seed)
    : parameters_(parameters_of(size, difficulty)),
      key_(stream_key(seed, "pathfinder.sample")),
      shrink_(size * magnification, size) {
  for (const int margin : parameters_.margins)
    paddles_.push_back({Shapes(parameters_, margin), Space(size, parameters_.padding, margin)});
}

Scene Generator::scene(std::int64_t sample) const {
  SampleWords words(key_, sample);
  const int label = static_cast<int>(words.below(2));
  const Paddles& paddles = paddles_[words.below(static_cast<std::uint32_t>(paddles_.size()))];
  return grow_scene(parameters_, paddles.shapes, paddles.empty, label, words);
}

Canvas Generator::draw(const Scene& scene) const {
  const auto paddles = std::find_if(paddles_.begin(), paddles_.end(),
                                    [&](const Paddles& p) { return p.shapes.margin() == scene.margin; });
  ensure(paddles != paddles_.end(), "pathfinder: no shapes for margin {}", scene.margin);
  Picture picture(parameters_.size);
  const auto add = [&](const Contour& contour, double contrast) {
    for (const Paddle& paddle : contour.paddles)
      picture.add(paddles->shapes.stamp(paddle.direction).line, paddle.start, contrast);
  };
  for (const Contour& contour : scene.contours) add(contour, parameters_.contrast);
  for (const Contour& contour : scene.distractors) add(contour, parameters_.distractor_contrast);
  const int half = parameters_.size / 2;
  for (const Pixel marker : scene.markers) {
    Canvas disc(shrink_.from());
    draw_disc(disc, {marker.y * magnification, marker.x * magnification},
              parameters_.marker_radius * magnification);
    picture.add(shrink_(disc), {half, half}, 1);
  }
  return picture.stretched();
}

}  // namespace tern::tasks::pathfinder
