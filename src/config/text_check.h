// What is refused or repaired before the YAML parser sees a text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "config/document.h"

namespace tern::config {

/// `text` for the parser: without a byte order mark, with plain line ends and a last line that is a comment;
/// nothing, and the reason in `problems`, for more than 1 MiB, bytes that are not UTF-8, control characters and
/// tabs in the indentation.
std::optional<std::string> checked_text(std::string_view text, const SourceRef& source, Problems& problems);

}  // namespace tern::config
