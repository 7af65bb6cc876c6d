#include "app/commands.h"

namespace tern::app {

void add_doctor_command(CLI::App&) {}

}  // namespace tern::app
