#include "app/commands.h"

namespace tern::app {

void add_config_command(CLI::App&) {}

}  // namespace tern::app
