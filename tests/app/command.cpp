#include "app/command.h"

#include <cstdlib>
#include <stdexcept>

#include <gtest/gtest.h>

#include "app/commands.h"
#include "support/temporary_folder.h"

namespace tern::test {

Outcome tern_command(const std::vector<std::string>& arguments) {
  Outcome outcome;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  outcome.code = app::run(arguments);
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

Outcome tern_process(const std::string& arguments, const std::filesystem::path& folder) {
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "tern";
  if (!std::filesystem::exists(program)) throw std::runtime_error(program.string() + " is not built");
  const std::filesystem::path log = folder / "output.txt";
  const std::string command = "cd '" + folder.string() + "' && { '" + program.string() + "' " + arguments +
                              "; } > '" + log.string() + "' 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(log), ""};
}

bool holds(const std::string& text, const std::string& part) {
  if (part.empty()) throw std::logic_error("an empty part stands in every text");
  return text.find(part) != std::string::npos;
}

void prepare_short_data(const std::filesystem::path& folder) {
  const Outcome outcome =
      tern_command({"data", "prepare", "listops", "--out", folder.string(), "--min-length", "5", "--max-length",
                    "30", "--train", "60", "--dev", "20", "--test", "21"});
  if (outcome.code != 0) throw std::runtime_error(outcome.err);
}

std::vector<std::string> short_training(const std::filesystem::path& data, const std::filesystem::path& run,
                                        int steps) {
  std::vector<std::string> arguments{"train", config_file("quickstart.yaml"), "--out", run.string()};
  for (const std::string& override :
       {"task.data=" + data.string(), std::string("task.max_length=30"), std::string("run.device=cpu"),
        std::string("task.padded_length=32"), std::string("model.width=8"), std::string("model.hidden_width=8"),
        "training.steps=" + std::to_string(steps), std::string("training.batch_size=8"),
        std::string("training.evaluate_every=2"), std::string("training.checkpoint_every=2"),
        std::string("schedule.warmup=1")}) {
    arguments.push_back("--set");
    arguments.push_back(override);
  }
  return arguments;
}

}  // namespace tern::test
