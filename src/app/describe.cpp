#include "app/commands.h"

namespace tern::app {

void add_describe_command(CLI::App&) {}

}  // namespace tern::app
