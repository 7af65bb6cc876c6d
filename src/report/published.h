// Published scores of the Long Range Arena, each with the recipe that it belongs to.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/run_record.h"

namespace tern::report {

/// The two recipes in use: the scores of one must not stand beside those of the other.
enum class Protocol {
  none,      ///< neither
  original,  ///< protocol A: Tay et al. 2021, the benchmark's own code
  small,     ///< protocol B, two layers of width 64: the Nystromformer and YOSO papers
};
/// "own", "A, original", "B, Nystromformer/YOSO".
std::string protocol_name(Protocol protocol);

/// The protocol whose model, length, batch, schedule and number of steps a run has; none for anything else,
/// such as a shortened or pre-trained run.
Protocol protocol_of(const RunRecord& run);

struct PublishedScore {
  double percent = 0;
  std::string source;
  bool is_verified = false;  ///< read in the source itself; others are for information only
};
/// The score that was published for a mechanism (mechanism_name) on a task (task_name).
std::optional<PublishedScore> published_score(Protocol protocol, const std::string& mechanism,
                                              const std::string& task);

/// The tasks whose mean is the published average, in the order of the published tables; Path-X is not among
/// them.
const std::vector<std::string>& averaged_tasks();

}  // namespace tern::report
