#include "tern/build_info.h"

namespace tern {

const BuildInfo& build_info() {
  static const BuildInfo info{TERN_VERSION, TERN_COMMIT, std::string("g++ ") + __VERSION__, TERN_CUDA_VERSION};
  return info;
}

}  // namespace tern
