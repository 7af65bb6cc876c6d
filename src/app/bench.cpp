// tern bench attention|model|error
#include "app/bench.h"

#include "app/commands.h"

namespace tern::app {

void add_bench_command(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "measure attention mechanisms on this machine");
  bench->footer(
      "Examples: tern bench attention --lengths 1024,4096,16384\n"
      "          tern bench model --json\n"
      "          tern bench error --lengths 256,1024");
  bench->require_subcommand(1);
  add_bench_attention(*bench);
  add_bench_model(*bench);
  add_bench_error(*bench);
}

}  // namespace tern::app
