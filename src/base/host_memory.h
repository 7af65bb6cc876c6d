// What the machine has for the program.
#pragma once

#include <cstdint>

namespace tern {

/// Bytes that new allocations may take now; all of the machine's where the system does not tell.
std::int64_t available_memory();

}  // namespace tern
