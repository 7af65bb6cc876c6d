#include "app/commands.h"

namespace tern::app {

void add_list_command(CLI::App&) {}

}  // namespace tern::app
