// tern data prepare listops
#include "app/experiment_options.h"
#include "app/prepare.h"
#include "tasks/listops_generator.h"
#include "tasks/listops_source.h"
#include "tern/error.h"

namespace tern::app {

namespace {

struct ListopsCommand {
  tasks::ListopsOptions generated;
  tasks::PreparationOptions output{.folder = "data/prepared/listops"};
  std::vector<std::filesystem::path> from;
};

void prepare_listops(const ListopsCommand& options) {
  if (options.from.empty())
    return prepare_data(
        options.output, tasks::listops_header(options.generated), {}, [&](tasks::Preparation& preparation) {
          return format_text("{} candidates", tasks::prepare_listops(options.generated, preparation));
        });
  const tasks::Sources sources = tasks::listops_sources(options.from);
  prepare_data(options.output, tasks::published_listops_header(), tasks::fingerprints_of(sources),
               [&](tasks::Preparation& preparation) {
                 tasks::prepare_published_listops(sources, preparation);
                 return to_text(options.from);
               });
}

}  // namespace

void add_prepare_listops(CLI::App& prepare) {
  CLI::App* command =
      prepare.add_subcommand("listops", "nested list operations, generated or published (Long Range Arena)");
  command->footer(
      "Examples: tern data prepare listops\n          tern data prepare listops --out data/prepared/short "
      "--min-length 8 --max-length 64 --train 10000\n          tern data prepare listops --from "
      "lra_release.gz");
  auto options = std::make_shared<ListopsCommand>();
  tasks::ListopsOptions& generated = options->generated;
  add_output_options(*command, options->output);
  CLI::Option* from = add_source_option(
      *command, options->from,
      "in place of generating: the benchmark's release archive, or basic_{train,val,test}.tsv or their folder");
  add_bad_option(*command, options->output)->needs(from);
  const auto add = [&](const char* flag, auto& value, const char* meaning) {
    return command->add_option(flag, value, meaning)->capture_default_str()->excludes(from);
  };
  add("--seed", generated.seed, "seed of the generator")->check(check_seed);
  add("--train", generated.train, "training records")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{100'000'000}));
  add("--dev", generated.dev, "development records");
  add("--test", generated.test, "test records");
  add("--min-length", generated.min_length, "fewest tokens of a record");
  add("--max-length", generated.max_length, "most tokens of a record");
  add("--depth", generated.depth, "deepest nesting");
  add("--arguments", generated.arguments, "most arguments of one operator");
  command->callback([options] { prepare_listops(*options); });
}

}  // namespace tern::app
