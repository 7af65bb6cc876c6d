// tern data prepare retrieval
#include "app/prepare.h"
#include "tasks/retrieval_source.h"
#include "tern/error.h"

namespace tern::app {

void add_prepare_retrieval(CLI::App& prepare) {
  CLI::App* command =
      prepare.add_subcommand("retrieval", "does one paper cite the other? by bytes (Long Range Arena)");
  command->footer(
      "Examples: tern data prepare retrieval --from lra_release.gz\n"
      "          tern data prepare retrieval --source acl_pairs --from acl_pairs --out "
      "data/prepared/retrieval_acl");
  struct Options {
    tasks::RetrievalOptions retrieval;
    tasks::PreparationOptions output{.folder = "data/prepared/retrieval"};
    std::vector<std::filesystem::path> from;
    std::string source = "aan";
  };
  auto options = std::make_shared<Options>();
  add_source_option(*command, options->from,
                    "the benchmark's release archive, or new_aan_pairs.{train,eval,test}.tsv or their folder")
      ->required();
  command
      ->add_option("--source", options->source,
                   "aan: the published pairs; acl_pairs: a small substitute, acl_docs.tsv and acl_pairs.tsv")
      ->capture_default_str()
      ->check(CLI::IsMember({"aan", "acl_pairs"}));
  add_output_options(*command, options->output);
  add_bad_option(*command, options->output);
  command->add_option("--max-length", options->retrieval.max_length, "bytes kept of each text, at most 10,000")
      ->capture_default_str();
  command->callback([options] {
    options->retrieval.is_substitute = options->source == "acl_pairs";
    const tasks::Sources sources = tasks::retrieval_sources(options->from, options->retrieval);
    prepare_data(options->output, tasks::retrieval_header(options->retrieval), tasks::fingerprints_of(sources),
                 [&](tasks::Preparation& preparation) {
                   tasks::prepare_retrieval(sources, options->retrieval, preparation);
                   return to_text(options->from);
                 });
  });
}

}  // namespace tern::app
