// Fills a record from the trees of several sources.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/document.h"
#include "tern/config.h"

namespace tern::config {

/// Sets every field of `root` that a source names, the later source winning, and adds mistakes to `problems`.
/// `layers` are the sources' roots, lowest precedence first, at least one. Values of `root` are undefined if
/// problems were added.
Origins fill(const Section& root, const std::vector<std::shared_ptr<Node>>& layers, Problems& problems);

}  // namespace tern::config
