// tern data prepare image
#include "app/prepare.h"
#include "tasks/image_source.h"
#include "tern/error.h"

namespace tern::app {

void add_prepare_image(CLI::App& prepare) {
  CLI::App* command = prepare.add_subcommand("image", "CIFAR-10 in grey, pixel by pixel (Long Range Arena)");
  command->footer("Example: tern data prepare image --from cifar-10-binary.tar.gz");
  struct Options {
    tasks::PreparationOptions output{.folder = "data/prepared/image"};
    std::vector<std::filesystem::path> from;
  };
  auto options = std::make_shared<Options>();
  add_source_option(
      *command, options->from,
      "the binary release (archive or folder), or grey images *gray_train*.bin and *gray_test*.bin")
      ->required();
  add_output_options(*command, options->output);
  add_bad_option(*command, options->output);
  command->callback([options] {
    const tasks::Sources sources = tasks::image_sources(options->from);
    prepare_data(options->output, tasks::image_header(), tasks::fingerprints_of(sources),
                 [&](tasks::Preparation& preparation) {
                   tasks::prepare_image(sources, preparation);
                   return to_text(options->from);
                 });
  });
}

}  // namespace tern::app
