// tern data prepare pathfinder
#include "app/experiment_options.h"
#include "app/prepare.h"
#include "tasks/pathfinder_source.h"
#include "tern/error.h"

namespace tern::app {
namespace {

namespace pathfinder = tasks::pathfinder;

struct PathfinderOptions {
  pathfinder::GeneratedOptions generated;
  std::string difficulty = "hard";
  std::vector<std::filesystem::path> from;
  std::filesystem::path png, sheet;
  tasks::PreparationOptions output;
};

void prepare_pathfinder(PathfinderOptions& options) {
  pathfinder::GeneratedOptions& generated = options.generated;
  generated.kind.difficulty = pathfinder::difficulty_named(options.difficulty);
  if (options.output.folder.empty())
    options.output.folder = format_text("data/prepared/pathfinder{}", generated.kind.size);
  if (options.from.empty()) {
    prepare_data(options.output, pathfinder::generated_header(generated), {},
                 [&](tasks::Preparation& preparation) {
                   pathfinder::prepare_generated(generated, preparation);
                   return std::string("the published procedure (generated, not the released images)");
                 });
    if (!options.png.empty()) pathfinder::write_images(generated, options.png);
    if (!options.sheet.empty()) pathfinder::write_sheet(generated, options.sheet);
    return;
  }
  pathfinder::ReleasedImages images(options.from, generated.kind, generated.seed);
  prepare_data(options.output, images.header(), images.sources(), [&](tasks::Preparation& preparation) {
    images.write(preparation);
    return to_text(options.from);
  });
}

}  // namespace

void add_prepare_pathfinder(CLI::App& prepare) {
  CLI::App* command = prepare.add_subcommand(
      "pathfinder", "two discs and dashed curves, generated or released (Long Range Arena)");
  command->footer(
      "Examples: tern data prepare pathfinder\n          tern data prepare pathfinder --size 128\n          "
      "tern data "
      "prepare pathfinder --from lra_release.gz");
  auto options = std::make_shared<PathfinderOptions>();
  const auto add = [&](const char* flag, auto& value, const char* meaning) {
    return command->add_option(flag, value, meaning)->capture_default_str();
  };
  add_output_options(*command, options->output);
  command->get_option("--out")->default_str("data/prepared/pathfinder<size>");
  add("--size", options->generated.kind.size, "rows and columns of an image; 128 is Path-X")
      ->check(CLI::IsMember({32, 64, 128, 256}));
  add("--difficulty", options->difficulty, "paddles of a contour: hard 14, intermediate 9, easy 6")
      ->check(CLI::IsMember({"hard", "intermediate", "easy"}));
  add("--seed", options->generated.seed, "of the generator; with --from of the split")->check(check_seed);
  CLI::Option* from = add_source_option(
      *command, options->from, "released images in place of generated ones: the archive, or folders of it");
  add_bad_option(*command, options->output)->needs(from);
  add("--count", options->generated.count, "images to generate: 80 % train, 10 % dev, 10 % test")
      ->check(CLI::Range(std::int64_t{10}, std::int64_t{100'000'000}))
      ->excludes(from);
  command
      ->add_option("--png", options->png,
                   "folder that also gets every generated image, laid out as the release")
      ->excludes(from);
  command->add_option("--sheet", options->sheet, "PNG file that also gets the first images of both labels")
      ->excludes(from);
  command->callback([options] { prepare_pathfinder(*options); });
}

}  // namespace tern::app
