// What this binary was built from.
#pragma once

#include <string>

namespace tern {

struct BuildInfo {
  std::string version, commit, compiler, cuda;
};
const BuildInfo& build_info();

}  // namespace tern
