// Builds without libarchive: plain files and folders only.
#include "io/archive.h"
#include "tern/error.h"

namespace tern::io {

bool has_archive() { return false; }

std::unique_ptr<Container> open_archive(const std::filesystem::path& path) {
  throw_error(ExitCode::bad_data,
              "{}: is an archive or compressed, which this build cannot read; unpack it first, or install "
              "libarchive (libarchive-dev) and build again",
              path);
}

}  // namespace tern::io
