// The documentation is true: generated pages are fresh, and every command line in a ```sh block works.
//
// Lines that start with `tern ` or `build/cpu/tern ` are executed in their order, page by page, in a scratch
// folder that holds a copy of configs/ and, for pages that read published data, tiny data of that form
// (app/published_data.h). A trailing comment that begins with "# about" marks a line that takes
// long: of it, only the configuration and the command's name are checked here. Lines that start with `tools/`
// must name executable scripts.
#include <algorithm>
#include <cstdlib>
#include <sstream>

#include <gtest/gtest.h>

#include "app/command.h"
#include "app/published_data.h"
#include "io/archive.h"
#include "support/temporary_folder.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

enum class Pace { quick, long_run, endless };
struct Line {
  std::string text;
  Pace pace = Pace::quick;
};

Pace pace_of(const std::string& line) {
  const std::size_t remark = line.find(" # about");
  if (remark == std::string::npos) return Pace::quick;
  const bool is_endless =
      line.find("hour", remark) != std::string::npos || line.find("day", remark) != std::string::npos;
  return is_endless ? Pace::endless : Pace::long_run;
}

std::vector<fs::path> pages() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(source_folder() / "docs"))
    if (entry.path().extension() == ".md") found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  if (fs::exists(source_folder() / "README.md")) found.push_back(source_folder() / "README.md");
  return found;
}

/// The lines of the ```sh blocks, without comments; lines that end in a backslash are joined.
std::vector<Line> command_lines(const std::string& page) {
  std::vector<Line> found;
  std::istringstream lines(page);
  bool is_inside = false;
  std::string joined;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      is_inside = !is_inside && line == "```sh";
      continue;
    }
    if (!is_inside) continue;
    joined += line;
    if (joined.ends_with("\\")) {
      joined.back() = ' ';
      continue;
    }
    const Pace pace = pace_of(joined);
    const std::string text = joined.substr(0, joined.find(" #"));
    joined.clear();
    if (!text.empty() && text.front() != '#') found.push_back({text, pace});
  }
  return found;
}

/// The program's arguments, or nothing for a line of another program.
std::string arguments_of(const std::string& line) {
  for (const std::string program : {"tern ", "build/cpu/tern "})
    if (line.starts_with(program)) return line.substr(program.size());
  return "";
}

/// `config check FILE --set ...` of a long line, so that its configuration is checked without the work.
std::string cheap_form(const std::string& arguments) {
  std::istringstream words(arguments);
  std::string command, word, check;
  words >> command;
  if (command != "train") return command + " --help";
  while (words >> word) {
    if (word.ends_with(".yaml")) check += " " + word;
    if (word == "--set" && words >> word) check += " --set '" + word + "'";
  }
  return "config check" + check;
}

TEST(Documentation, CommandLinesWork) {
  const bool is_patient = std::getenv("TERN_LONG_TESTS") != nullptr;
  int executed = 0;
  ASSERT_FALSE(pages().empty());
  for (const fs::path& page : pages()) {
    const TemporaryFolder folder;
    fs::copy(source_folder() / "configs", folder / "configs", fs::copy_options::recursive);
    const std::string text = read_bytes(page);
    if (holds(text, " --from ")) write_published_data(folder.path());
    for (const Line& line : command_lines(text)) {
      const std::string arguments = arguments_of(line.text);
      if (arguments.empty() || (holds(arguments, ".gz") && !io::has_archive())) continue;
      const bool runs = line.pace == Pace::quick || (line.pace == Pace::long_run && is_patient);
      const Outcome ran = tern_process(runs ? arguments : cheap_form(arguments), folder.path());
      EXPECT_EQ(ran.code, 0) << page << ": " << line.text << "\n" << ran.out;
      ++executed;
    }
  }
  EXPECT_GE(executed, 15);
}

TEST(Documentation, ScriptsAreExecutable) {
  for (const fs::path& page : pages())
    for (const Line& line : command_lines(read_bytes(page))) {
      if (!line.text.starts_with("tools/")) continue;
      const fs::path script = source_folder() / line.text.substr(0, line.text.find(' '));
      EXPECT_TRUE(fs::exists(script)) << page << ": " << line.text;
      if (!fs::exists(script)) continue;
      EXPECT_NE(fs::status(script).permissions() & fs::perms::owner_exec, fs::perms::none) << script;
    }
}

TEST(Documentation, ConfigurationReferenceIsFresh) {
  const Outcome outcome = tern_command({"config", "reference"});
  ASSERT_EQ(outcome.code, 0);
  EXPECT_EQ(read_bytes(source_folder() / "docs/configuration.md"), outcome.out)
      << "write it anew: tern config reference > docs/configuration.md";
}

TEST(Documentation, EveryCommandIsDescribed) {
  const std::string page = read_bytes(source_folder() / "docs/commands.md");
  for (const char* command : {"train",
                              "evaluate",
                              "describe",
                              "list attention",
                              "list tasks",
                              "list devices",
                              "list schedules",
                              "data prepare listops",
                              "data prepare pathfinder",
                              "data prepare text",
                              "data prepare retrieval",
                              "data prepare image",
                              "data prepare classification",
                              "data prepare pair",
                              "data prepare regression",
                              "predict",
                              "data verify",
                              "data info",
                              "checkpoint list",
                              "checkpoint verify",
                              "checkpoint average",
                              "config show",
                              "config check",
                              "config diff",
                              "config reference",
                              "config keys",
                              "doctor",
                              "bench attention",
                              "bench model",
                              "bench error",
                              "sweep",
                              "report"})
    EXPECT_TRUE(holds(page, "\ntern " + std::string(command))) << command;
}

TEST(Documentation, EveryExitCodeIsDescribed) {
  const std::string page = read_bytes(source_folder() / "docs/exit-codes.md");
  for (const int code : {0, 1, 2, 65, 66, 70, 73, 74, 75, 76, 77, 78})
    EXPECT_TRUE(holds(page, "\n| " + std::to_string(code) + " |")) << code;
}

TEST(Documentation, ReaderOfBlocksSeesWhatItShould) {
  const std::vector<Line> lines = command_lines(
      "tern outside\n```sh\n# a remark\ntern a  # about 5 minutes\ntern b \\\n  --set c=d\n```\n```\ntern "
      "e\n```\n");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(arguments_of(lines[0].text), "a ");
  EXPECT_EQ(lines[0].pace, Pace::long_run);
  EXPECT_EQ(arguments_of(lines[1].text), "b    --set c=d");
  EXPECT_EQ(lines[1].pace, Pace::quick);
  EXPECT_EQ(pace_of("tern f  # about 2 hours"), Pace::endless);
  EXPECT_EQ(cheap_form("train x.yaml --set a.b=c --out y"), "config check x.yaml --set 'a.b=c'");
}

}  // namespace
}  // namespace tern::test
