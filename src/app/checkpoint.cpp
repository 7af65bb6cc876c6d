#include "app/commands.h"

namespace tern::app {

void add_checkpoint_command(CLI::App&) {}

}  // namespace tern::app
