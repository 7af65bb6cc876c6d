#include "tasks/pathfinder_data.h"

#include <algorithm>
#include <array>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "io/atomic_file.h"
#include "io/png.h"
#include "tern/error.h"

namespace tern::tasks::pathfinder {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t round_pixels = std::int64_t{1} << 24;  // drawn before they are written
constexpr std::int64_t images_per_folder = 1000;

struct Sample {
  Scene scene;
  Canvas image{0};
};

using Visit = std::function<void(std::int64_t, const Sample&)>;

/// Draws samples [range) on all threads and calls visit(index, sample) for each in order.
void for_each_sample(const Generator& generator, Range range, const Visit& visit) {
  const std::int64_t size = generator.parameters().size, round = round_pixels / (size * size);
  for (std::int64_t begin = range.begin; begin < range.end; begin += round) {
    std::vector<Sample> samples(static_cast<std::size_t>(std::min(round, range.end - begin)));
    std::vector<std::exception_ptr> errors(samples.size());
    parallel_for(std::ssize(samples), 1, [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      try {
        samples[at].scene = generator.scene(begin + i);
        samples[at].image = generator.draw(samples[at].scene);
      } catch (...) {
        errors[at] = std::current_exception();
      }
    });
    for (std::size_t i = 0; i < samples.size(); ++i) {
      if (errors[i]) std::rethrow_exception(errors[i]);
      visit(begin + static_cast<std::int64_t>(i), samples[i]);
    }
  }
}

io::GreyImage to_image(const Canvas& canvas) { return {canvas.size, canvas.size, canvas.levels}; }

void check(const GeneratedOptions& options) {
  require(options.count >= 10, "pathfinder: there must be at least 10 images, got {}", options.count);
}

}  // namespace

data::RecordHeader header_of(Kind kind, std::uint64_t seed, io::Json options) {
  parameters_of(kind.size, kind.difficulty);  // throws for other sizes
  options["size"] = kind.size;
  options["difficulty"] = name(kind.difficulty);
  data::RecordHeader header;
  header.task = "pathfinder";
  header.options = io::dump_json(options);
  header.seed = seed;
  header.vocabulary = grey_levels;
  header.classes = classes;
  header.padded_length = std::int64_t{kind.size} * kind.size;
  return header;
}

Range range_of(std::string_view split, std::int64_t count) {
  const std::int64_t train = count * 8 / 10, dev = count * 9 / 10;
  if (split == "train") return {0, train};
  return split == "dev" ? Range{train, dev} : Range{dev, count};
}

std::string released_folder(Difficulty difficulty) {
  if (difficulty == Difficulty::easy) return "curv_baseline";
  return difficulty == Difficulty::intermediate ? "curv_contour_length_9" : "curv_contour_length_14";
}

data::RecordHeader generated_header(const GeneratedOptions& options) {
  check(options);
  return header_of(options.kind, options.seed, {{"count", options.count}, {"note", generated_note}});
}

void prepare_generated(const GeneratedOptions& options, Preparation& preparation) {
  check(options);
  const Generator generator(options.kind.size, options.kind.difficulty, options.seed);
  for (const std::string_view split : split_names) {
    if (!preparation.wants(split)) continue;
    data::RecordWriter& writer = preparation.writer(split);
    for_each_sample(generator, range_of(split, options.count), [&](std::int64_t, const Sample& sample) {
      writer.append(std::span<const std::uint8_t>(sample.image.levels), sample.scene.label);
    });
    preparation.finish(split);
  }
  preparation.complete();
}

void write_images(const GeneratedOptions& options, const fs::path& folder) {
  check(options);
  const Generator generator(options.kind.size, options.kind.difficulty, options.seed);
  const Parameters& p = generator.parameters();
  const fs::path set =
      folder / ("pathfinder" + std::to_string(p.size)) / released_folder(options.kind.difficulty);
  io::make_directory(set);
  io::write_file(set / note_file, std::string(generated_note) + "\n");  // first: no image without it
  std::string lines;
  for_each_sample(generator, {0, options.count}, [&](std::int64_t i, const Sample& sample) {
    const std::int64_t number = i % images_per_folder;
    const std::string batch = std::to_string(i / images_per_folder);
    const fs::path images = fs::path("imgs") / batch;
    if (number == 0) io::make_directory(set / images);
    const std::string file = format_text("sample_{}.png", number);
    io::write_png(set / images / file, to_image(sample.image));
    lines += format_text("{} {} {} {} {} {} {} {} {} {} 1\n", images.string(), file, number, sample.scene.label,
                         p.continuity, p.contour_length, p.distractor_length, p.paddle_length,
                         p.paddle_thickness, sample.scene.margin);
    if (number + 1 < images_per_folder && i + 1 < options.count) return;
    io::make_directory(set / "metadata");
    io::write_file(set / "metadata" / (batch + ".npy"), std::exchange(lines, {}));
  });
}

void write_sheet(const GeneratedOptions& options, const fs::path& path) {
  check(options);
  constexpr std::int64_t gap = 2;
  const std::int64_t size = options.kind.size, columns = std::clamp<std::int64_t>(192 / size, 2, 4),
                     rows = columns;
  const std::int64_t step = size + gap, half = columns * step;
  io::GreyImage sheet{2 * half + 2 * gap, rows * step + gap, {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.width * sheet.height), 128);
  std::array<std::int64_t, classes> drawn{};
  const Generator generator(options.kind.size, options.kind.difficulty, options.seed);
  for (std::int64_t i = 0; i < options.count; ++i) {
    const Scene scene = generator.scene(i);
    const std::int64_t number = drawn[static_cast<std::size_t>(scene.label)]++;
    if (number >= columns * rows) continue;
    const Canvas image = generator.draw(scene);
    const std::int64_t left = gap + scene.label * (half + gap) + number % columns * step;
    for (std::int64_t y = 0; y < size; ++y) {
      const auto row = image.levels.begin() + y * size;
      std::copy(row, row + size,
                sheet.pixels.begin() + (gap + number / columns * step + y) * sheet.width + left);
    }
    if (std::min(drawn[0], drawn[1]) == columns * rows) break;
  }
  io::write_png(path, sheet);
}

}  // namespace tern::tasks::pathfinder
