#include "app/commands.h"

namespace tern::app {

void add_evaluate_command(CLI::App&) {}

}  // namespace tern::app
