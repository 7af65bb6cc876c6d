#include "tasks/pathfinder_growth.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "tern/error.h"

namespace tern::tasks::pathfinder {
namespace {

constexpr int free_below = 77;  // 0.3 of full, rounded up
constexpr std::int64_t attempts_cap = 1'000'000;

/// Raises a square to the levels of a canvas centred at `middle`, where the two overlap.
void raise(Canvas& square, const Canvas& canvas, Pixel middle) {
  const int half = canvas.size / 2, top = middle.y - half, left = middle.x - half;
  const int begin = std::max(0, -left), count = std::min(canvas.size, square.size - left) - begin;
  for (int y = std::max(0, -top); y < std::min(canvas.size, square.size - top); ++y) {
    const std::uint8_t* from = canvas.levels.data() + canvas.place(y, begin);
    std::uint8_t* to = square.levels.data() + square.place(top + y, left + begin);
#pragma omp simd
    for (int i = 0; i < count; ++i) to[i] = std::max(to[i], from[i]);
  }
}

/// A contour that grows.
struct Growing {
  Contour contour;
  Pixel gap;  // middle of the gap before the newest paddle

  int direction() const { return contour.paddles.back().direction; }
};

class Grower {
 public:
  Grower(const Parameters& parameters, const Shapes& shapes, SampleWords& words)
      : parameters_(parameters),
        shapes_(shapes),
        words_(words),
        length_(parameters.paddle_length),
        margin_(shapes.margin()) {}

  /// The two long contours, or nothing. `space` becomes `empty` and what they take.
  bool grow_contours(const Space& empty, Space& space, std::array<Contour, 2>& contours);
  /// One distractor, or nothing; `space` is of use only after success.
  std::optional<Contour> grow_distractor(Space& space);

 private:
  int draw_degree() { return static_cast<int>(words_.below(Shapes::degrees)); }
  std::optional<Growing> begin(const Space& space, Pixel start, int degree) const;
  std::optional<Growing> begin_first(const Space& space);
  std::optional<Growing> begin_second(const Space& space, Pixel first);
  bool extend(Space& space, Growing& growing);
  void settle(Space& space, const Growing& growing) const {
    space.add(shapes_.stamp(growing.direction()), growing.contour.paddles.back().start);
  }

  const Parameters& parameters_;
  const Shapes& shapes_;
  SampleWords& words_;
  int length_, margin_;
  std::vector<double> sums_;  // of the weights of the choices
};

/// The first paddle, if its far end and the gap before it lie in the square.
std::optional<Growing> Grower::begin(const Space& space, Pixel start, int degree) const {
  const double along = shapes_.angle(degree);
  const double back = along < 0 ? along + std::numbers::pi : along - std::numbers::pi;
  const Pixel far = moved(start, along, length_), gap = moved(far, back, length_ + margin_);
  if (!space.contains(far) || !space.contains(gap)) return std::nullopt;
  return Growing{{start, far, {{start, degree}}}, gap};
}

std::optional<Growing> Grower::begin_first(const Space& space) {
  // Every body must keep off a band along the border, so the free places are a rectangle.
  const int band = 2 * parameters_.seed_distance;
  for (int attempt = 0; attempt < paddle_tries; ++attempt) {
    const int degree = draw_degree();
    const std::vector<Pixel>& body = shapes_.body(degree);
    if (!shapes_.can_begin(degree)) return std::nullopt;
    Pixel low = body.at(0), high = low;
    for (const Pixel p : body) {
      low = {std::min(low.y, p.y), std::min(low.x, p.x)};
      high = {std::max(high.y, p.y), std::max(high.x, p.x)};
    }
    const int side = parameters_.size - 2 * band, rows = side - (high.y - low.y),
              columns = side - (high.x - low.x);
    if (rows <= 0 || columns <= 0) return std::nullopt;
    const Pixel start{band - low.y + static_cast<int>(words_.below(static_cast<std::uint32_t>(rows))),
                      band - low.x + static_cast<int>(words_.below(static_cast<std::uint32_t>(columns)))};
    if (auto growing = begin(space, start, degree)) return growing;
  }
  return std::nullopt;
}

std::optional<Growing> Grower::begin_second(const Space& space, Pixel first) {
  for (int attempt = 0; attempt < paddle_tries; ++attempt) {
    const int degree = draw_degree();
    const double around = draw_degree() * std::numbers::pi / 180;
    const Pixel start{static_cast<int>(std::nearbyint(first.y + parameters_.seed_distance * std::sin(around))),
                      static_cast<int>(std::nearbyint(first.x + parameters_.seed_distance * std::cos(around)))};
    if (auto growing = begin(space, start, degree)) return growing;
  }
  return std::nullopt;
}

/// Adds one paddle, if there is room. The paddle before it is taken into `space` only now, so that the two may
/// touch; the new one stays out of it.
bool Grower::extend(Space& space, Growing& growing) {
  const Pixel gap = moved(growing.gap, shapes_.angle(growing.direction()), length_ + 2 * margin_);
  const std::vector<NextPaddle>& choices = shapes_.choices(growing.direction());
  sums_.clear();
  double sum = 0;
  for (const NextPaddle& choice : choices) {
    const Pixel end = gap + choice.end;
    if (space.contains(end)) sum += (full - space.reserved(end)) * choice.weight;
    sums_.push_back(sum);
  }
  if (sum < 1e-4 * full) return false;
  for (int attempt = 0; attempt < paddle_tries; ++attempt) {
    const double drawn = words_.uniform() * sum;
    const auto place = std::upper_bound(sums_.begin(), sums_.end() - 1, drawn) - sums_.begin();
    const NextPaddle& choice = choices[static_cast<std::size_t>(place)];
    const Paddle paddle{gap + choice.end, choice.direction};
    if (!space.fits(shapes_.stamp(paddle.direction), paddle.start)) continue;
    settle(space, growing);
    growing.gap = gap;
    growing.contour.last = paddle.start;
    growing.contour.paddles.push_back(paddle);
    return true;
  }
  return false;
}

bool Grower::grow_contours(const Space& empty, Space& space, std::array<Contour, 2>& contours) {
  auto first = begin_first(empty);
  if (!first) return false;
  auto second = begin_second(empty, first->contour.first);
  if (!second) return false;
  space = empty;
  for (int paddle = 1; paddle < parameters_.contour_length; ++paddle)
    if (!extend(space, *first) || !extend(space, *second)) return false;
  // The published procedure forgets the last paddle of the first contour here: distractors may touch it.
  settle(space, *second);
  contours = {first->contour, second->contour};
  return true;
}

std::optional<Contour> Grower::grow_distractor(Space& space) {
  std::optional<Growing> growing;
  for (int attempt = 0; attempt < paddle_tries && !growing; ++attempt) {
    const int degree = draw_degree();
    if (!shapes_.can_begin(degree)) return std::nullopt;
    const std::vector<Pixel> places = space.free_places(shapes_.body(degree));
    if (places.empty()) return std::nullopt;
    growing = begin(space, places[words_.below(static_cast<std::uint32_t>(places.size()))], degree);
  }
  if (!growing) return std::nullopt;
  for (int paddle = 1; paddle < parameters_.distractor_length; ++paddle)
    if (!extend(space, *growing)) return std::nullopt;
  settle(space, *growing);
  return growing->contour;
}

}  // namespace

Space::Space(int size, int border, int margin) : taken_(size), reserved_(size) {
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const int inside = std::min({y, x, size - 1 - y, size - 1 - x});
      if (inside < border) taken_.at(y, x) = full;
    }
  }
  reserved_ = dilated(taken_, margin);
}

bool Space::fits(const Stamp& stamp, Pixel start) const {
  const int half = stamp.taken.size / 2;
  return std::none_of(stamp.core.begin(), stamp.core.end(), [&](Pixel p) {
    const Pixel at = start + p;
    return contains(at) && taken_.at(at.y, at.x) + stamp.taken.at(p.y + half, p.x + half) >= collision;
  });
}

void Space::add(const Stamp& stamp, Pixel start) {
  raise(taken_, stamp.taken, start);
  raise(reserved_, stamp.reserved, start);
}

std::int64_t Space::free_pixels() const {
  return std::count_if(taken_.levels.begin(), taken_.levels.end(),
                       [](std::uint8_t level) { return level < free_below; });
}

std::vector<Pixel> Space::free_places(const std::vector<Pixel>& body) const {
  const int size = taken_.size;
  Canvas occupied(size), blocked(size);
  for (std::size_t i = 0; i < occupied.levels.size(); ++i)
    occupied.levels[i] = taken_.levels[i] < free_below ? 0 : full;
  for (int i = 0; i < size; ++i)
    occupied.at(0, i) = occupied.at(size - 1, i) = occupied.at(i, 0) = occupied.at(i, size - 1) = full;
  for (const Pixel p : body) {
    const int begin = std::max(0, -p.x), count = size - std::abs(p.x);
    for (int y = std::max(0, -p.y); y < std::min(size, size - p.y); ++y) {
      const std::uint8_t* from = occupied.levels.data() + occupied.place(y + p.y, begin + p.x);
      std::uint8_t* to = blocked.levels.data() + blocked.place(y, begin);
#pragma omp simd
      for (int x = 0; x < count; ++x) to[x] |= from[x];
    }
  }
  std::vector<Pixel> places;
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x)
      if (blocked.at(y, x) == 0) places.push_back({y, x});
  return places;
}

Scene grow_scene(const Parameters& parameters, const Shapes& shapes, const Space& empty, int label,
                 SampleWords& words) {
  Grower grower(parameters, shapes, words);
  Scene scene;
  scene.label = label;
  scene.margin = shapes.margin();
  Space space = empty;
  for (bool is_grown = false; !is_grown; ++scene.attempts) {
    if (scene.attempts == attempts_cap) {
      throw_error(ExitCode::failed,
                  "pathfinder: two contours of {} paddles must fit into {} x {} pixels, found no "
                  "room in {} attempts; choose another seed",
                  parameters.contour_length, parameters.size, parameters.size, attempts_cap);
    }
    is_grown = grower.grow_contours(empty, space, scene.contours);
  }
  const double enough = least_free * parameters.size * parameters.size;
  for (int which = 0; which < parameters.distractors; ++which) {
    for (int attempt = 0; attempt < distractor_tries && static_cast<double>(space.free_pixels()) >= enough;
         ++attempt) {
      Space tried = space;
      std::optional<Contour> distractor = grower.grow_distractor(tried);
      if (!distractor) continue;
      scene.distractors.push_back(std::move(*distractor));
      space = std::move(tried);
      break;
    }
  }
  const std::size_t marked = words.below(2);
  scene.markers = {scene.contours[marked].first, scene.contours[label == 1 ? marked : 1 - marked].last};
  return scene;
}

}  // namespace tern::tasks::pathfinder
