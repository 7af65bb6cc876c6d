// tern data prepare text
#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/prepare.h"
#include "tasks/text_source.h"
#include "tern/error.h"

namespace tern::app {

void add_prepare_text(CLI::App& prepare) {
  CLI::App* command = prepare.add_subcommand("text", "IMDb movie reviews by bytes (Long Range Arena)");
  command->footer(
      "Examples: tern data prepare text --from aclImdb_v1.tar.gz\n"
      "          tern data prepare text --from imdb_train.tsv --from imdb_test.tsv --dev 2500");
  struct Options {
    tasks::TextOptions text;
    tasks::PreparationOptions output{.folder = "data/prepared/text"};
    std::vector<std::filesystem::path> from;
  };
  auto options = std::make_shared<Options>();
  add_source_option(*command, options->from,
                    "the release (archive or folder aclImdb), or tables *train.tsv and *test.tsv")
      ->required();
  add_output_options(*command, options->output);
  add_bad_option(*command, options->output);
  command
      ->add_option("--dev", options->text.held_out,
                   "training records held out as the dev split; 0: dev is the test split, as published")
      ->capture_default_str()
      ->check(not_negative);
  command->add_option("--seed", options->text.seed, "seed of the order, which decides what is held out")
      ->capture_default_str()
      ->check(check_seed);
  command->callback([options] {
    const tasks::Sources sources = tasks::text_sources(options->from);
    prepare_data(options->output, tasks::text_header(options->text), tasks::fingerprints_of(sources),
                 [&](tasks::Preparation& preparation) {
                   tasks::prepare_text(sources, options->text, preparation);
                   return to_text(options->from);
                 });
  });
}

}  // namespace tern::app
