// tern sweep and tern report as a user starts them.
#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/command.h"
#include "io/folder_lock.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tern/error.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

constexpr int exit_failed = 1, exit_bad_data = 65, exit_missing = 66, exit_cannot_create = 73,
              exit_interrupted = 75, exit_config = 78;
constexpr auto patience = std::chrono::seconds(120);

/// `tern sweep sweep.yaml --out out <options>` in a process that may be signalled.
class SweepProcess {
 public:
  SweepProcess(const fs::path& folder, const std::string& out) {
    const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "tern";
    process_ = ::fork();
    if (process_ != 0) return;
    const int log = ::open((folder / "sweep.log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::dup2(log, STDOUT_FILENO);
    ::dup2(log, STDERR_FILENO);
    if (::chdir(folder.c_str()) == 0)
      ::execl(program.c_str(), "tern", "sweep", "sweep.yaml", "--jobs", "2", "--out", out.c_str(), nullptr);
    ::_exit(127);
  }
  ~SweepProcess() {
    if (process_ > 0) ::kill(process_, SIGKILL), ::waitpid(process_, nullptr, 0);
  }
  SweepProcess(const SweepProcess&) = delete;
  SweepProcess& operator=(const SweepProcess&) = delete;

  void signal(int number) const { ::kill(process_, number); }
  /// Exit code, or minus the signal.
  int wait() {
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t process_ = -1;
};

bool wait_until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < end) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

bool is_locked(const fs::path& folder) {
  try {
    const io::FolderLock lock(folder);
    return false;
  } catch (const Error&) {
    return true;
  }
}

/// A folder with short data and sweep.yaml: two mechanisms, `seeds`, runs of `steps` updates.
class Sweep : public testing::Test {
 protected:
  void SetUp() override {
    prepare_short_data(folder / "data");
    write_bytes(
        folder / "task.yaml",
        "base: [" + config_file("quickstart.yaml") +
            "]\ntask: {data: data, max_length: 30, padded_length: 32}\nrun: {device: cpu, threads: 1}\n"
            "model: {width: 8, hidden_width: 8, attention: {hashes: 4}}\n"
            "training: {batch_size: 8, evaluate_every: 2, checkpoint_every: 2}\nschedule: {warmup: 1}\n");
    write_bytes(folder / "plain.yaml", "model: {attention: {kind: none}}\n");
    write_bytes(folder / "exact.yaml", "model: {attention: {kind: softmax}}\n");
  }
  void write_sweep(const std::string& steps, const std::string& more = "seeds: [1, 2]\n") {
    write_bytes(folder / "sweep.yaml",
                "tasks: [task.yaml]\nmechanisms: [plain.yaml, exact.yaml]\nset: [training.steps=" + steps +
                    "]\n" + more);
  }
  Outcome sweep(const std::string& options) {
    return tern_process("sweep sweep.yaml " + options, folder.path());
  }
  io::Json state_of(const std::string& out) const {
    return io::parse_json(read_bytes(folder / (out + "/sweep.json")), "sweep.json")["runs"];
  }
  io::Json result_of(const std::string& run) const {
    return io::parse_json(read_bytes(folder / (run + "/result.json")), run);
  }

  TemporaryFolder folder;
};

TEST_F(Sweep, trains_every_combination_once) {
  write_sweep("2");
  const Outcome plan = sweep("--out runs --dry-run");
  EXPECT_EQ(plan.code, 0) << plan.out;
  EXPECT_TRUE(holds(plan.out, "4 runs, 1 at a time, first on CPU\n")) << plan.out;
  EXPECT_FALSE(fs::exists(folder / "runs")) << "a dry run makes nothing";
  const Outcome first = sweep("--out runs --jobs 2");
  ASSERT_EQ(first.code, 0) << first.out;
  const io::Json runs = state_of("runs");
  ASSERT_EQ(runs.size(), 4U);
  std::vector<std::string> names;
  for (const io::Json& run : runs) {
    names.push_back(run["name"]);
    EXPECT_EQ(run["state"], "done");
    EXPECT_EQ(run["exit_code"], 0);
    const io::Json result = result_of("runs/" + names.back());
    EXPECT_EQ(result["seed"], run["seed"]);
    EXPECT_EQ(result["steps"], 2);
    EXPECT_EQ(result["attention"], run["mechanism"] == "plain" ? "none" : "softmax");
  }
  EXPECT_EQ(names, (std::vector<std::string>{"task-plain-seed1", "task-exact-seed1", "task-plain-seed2",
                                             "task-exact-seed2"}));
  for (const char* file : {"report.md", "report.csv", "runs.csv", "report.tex", "report.html"})
    EXPECT_TRUE(fs::exists(folder / "runs" / file)) << file;
  EXPECT_TRUE(holds(first.out, "| Softmax | ")) << first.out;

  const Outcome again = sweep("--out runs");
  EXPECT_EQ(again.code, 0) << again.out;
  EXPECT_FALSE(holds(again.out, "started")) << again.out;
}

TEST_F(Sweep, equals_single_runs_to_the_bit) {
  write_sweep("3", "seeds: [5]\n");
  ASSERT_EQ(sweep("--out runs --jobs 2").code, 0);
  const Outcome single = tern_process(
      "train task.yaml --set model.attention.kind=softmax --set run.seed=5 --set training.steps=3 --out single",
      folder.path());
  ASSERT_EQ(single.code, 0) << single.out;
  EXPECT_EQ(result_of("runs/task-exact-seed5")["fingerprint"], result_of("single")["fingerprint"]);
}

TEST_F(Sweep, a_failing_run_does_not_hold_up_the_others) {
  write_sweep("2", "seeds: [1]\n");
  write_bytes(folder / "second.yaml", "base: task.yaml\ntask: {data: nowhere}\n");
  write_bytes(folder / "sweep.yaml",
              "tasks: [second.yaml, task.yaml]\nmechanisms: [plain.yaml]\nset: [training.steps=2]\n");
  const Outcome outcome = sweep("--out runs");
  EXPECT_EQ(outcome.code, exit_failed) << outcome.out;
  EXPECT_TRUE(holds(outcome.out, "second-plain-seed0"));
  const io::Json runs = state_of("runs");
  EXPECT_EQ(runs[0]["state"], "failed");
  EXPECT_EQ(runs[0]["exit_code"], exit_missing);
  EXPECT_TRUE(holds(runs[0]["error"], "the prepared data are missing"));
  EXPECT_EQ(runs[1]["state"], "done");
  EXPECT_TRUE(holds(read_bytes(folder / "runs/report.md"), "| second-plain-seed0 | failed | "));

  fs::rename(folder / "data", folder / "nowhere");
  EXPECT_EQ(sweep("--out runs").code, 0) << "run again after the mistake is mended";
  EXPECT_EQ(state_of("runs")[0]["state"], "done");
}

TEST_F(Sweep, an_interrupted_sweep_continues_to_the_same_bits) {
  write_sweep("400", "seeds: [1]\n");
  ASSERT_EQ(sweep("--out whole --jobs 2").code, 0);
  SweepProcess stopped(folder.path(), "runs");
  ASSERT_TRUE(wait_until([&] {
    return fs::exists(folder / "runs/task-plain-seed1/metrics.jsonl") &&
           !read_bytes(folder / "runs/task-plain-seed1/metrics.jsonl").empty();
  }));
  stopped.signal(SIGINT);
  EXPECT_EQ(stopped.wait(), exit_interrupted) << read_bytes(folder / "sweep.log");
  const io::Json runs = state_of("runs");
  EXPECT_EQ(runs[0]["state"], "interrupted");
  EXPECT_EQ(runs[0]["exit_code"], exit_interrupted);
  EXPECT_FALSE(is_locked(folder / "runs/task-plain-seed1")) << "no run outlives the sweep";

  const Outcome again = sweep("--out runs --jobs 2");
  EXPECT_EQ(again.code, 0) << again.out;
  EXPECT_TRUE(holds(read_bytes(folder / "runs/task-plain-seed1/log.txt"), "continuing after step"));
  for (const char* run : {"task-plain-seed1", "task-exact-seed1"})
    EXPECT_EQ(result_of(std::string("runs/") + run)["fingerprint"],
              result_of(std::string("whole/") + run)["fingerprint"]);
}

TEST_F(Sweep, runs_save_themselves_when_the_sweep_is_killed) {
  write_sweep("100000", "seeds: [1]\n");
  const std::vector<fs::path> runs{folder / "runs/task-plain-seed1", folder / "runs/task-exact-seed1"};
  const auto both_hold = [&](const char* file, const char* text) {
    return std::all_of(runs.begin(), runs.end(), [&](const fs::path& run) {
      return fs::exists(run / file) && holds(read_bytes(run / file), text);
    });
  };
  SweepProcess killed(folder.path(), "runs");
  ASSERT_TRUE(wait_until([&] { return both_hold("metrics.jsonl", "\n"); }));
  killed.signal(SIGKILL);
  EXPECT_EQ(killed.wait(), -SIGKILL);
  // A run tells its end as its last act, after its folder is free.
  EXPECT_TRUE(wait_until([&] { return both_hold("output.txt", "stopped by a signal"); }))
      << "SIGTERM reaches the runs";
  for (const fs::path& run : runs) {
    EXPECT_FALSE(is_locked(run)) << run;
    EXPECT_FALSE(fs::is_empty(run / "checkpoints")) << run;
  }
}

TEST_F(Sweep, only_one_process_works_in_a_folder) {
  write_sweep("2");
  fs::create_directory(folder / "runs");
  const io::FolderLock lock(folder / "runs");
  EXPECT_EQ(sweep("--out runs").code, exit_cannot_create);
}

TEST_F(Sweep, chosen_runs_alone_are_trained) {
  write_sweep("2");
  const Outcome plan = sweep("--out runs --dry-run --only '*-plain-seed2'");
  EXPECT_TRUE(holds(plan.out, "task-plain-seed2")) << plan.out;
  EXPECT_TRUE(holds(plan.out, "1 runs, 1 at a time, first on CPU; 3 more are not chosen\n")) << plan.out;
  for (const char* other : {"task-plain-seed1", "task-exact-seed1", "task-exact-seed2"})
    EXPECT_FALSE(holds(plan.out, other)) << plan.out;
  const Outcome outcome = sweep("--out runs --only '*-plain-seed2'");
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  const io::Json runs = state_of("runs");
  ASSERT_EQ(runs.size(), 4U);
  for (const io::Json& run : runs)
    EXPECT_EQ(run["state"], run["name"] == "task-plain-seed2" ? "done" : "new") << run["name"];
  const std::string report = read_bytes(folder / "runs/report.md");
  EXPECT_TRUE(holds(report, "- Planned runs that have not begun: 3.\n")) << report;
  EXPECT_FALSE(holds(report, "task-exact-seed1")) << report;
  write_sweep("2", "seeds: [1, 2]\nexclude: ['*-seed1']\n");
  EXPECT_TRUE(holds(sweep("--out runs --dry-run").out, "2 runs"));
}

TEST_F(Sweep, overrides_may_name_the_run) {
  write_sweep("2", "seeds: [7]\n");
  const Outcome outcome =
      sweep("--out runs --only '*-plain-*' --set 'run.name={task}/{mechanism}/{seed}/{name}'");
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_TRUE(holds(read_bytes(folder / "runs/task-plain-seed7/config.resolved.yaml"),
                    "name: task/plain/7/task-plain-seed7\n"));
}

TEST_F(Sweep, results_of_another_configuration_are_not_taken_for_these) {
  write_sweep("2", "seeds: [1]\n");
  ASSERT_EQ(sweep("--out runs").code, 0);
  for (const char* change : {"training.steps=4", "model.width=16"}) {
    const Outcome outcome = sweep("--out runs --set " + std::string(change));
    EXPECT_EQ(outcome.code, exit_config) << change;
    const std::string key = std::string(change).substr(0, std::string(change).find('='));
    EXPECT_TRUE(holds(outcome.out, "task-plain-seed1: " + key)) << outcome.out;
  }
  EXPECT_EQ(sweep("--out runs --set training.log_every=1").code, 0) << "what changes no result may change";
}

TEST_F(Sweep, mistakes_are_told_before_anything_runs) {
  struct Case {
    std::string text, message;
    int code = exit_config;
  };
  for (const Case& mistake :
       std::vector<Case>{{"task: [task.yaml]\n", "task is not a known key; did you mean tasks?"},
                         {"mechanisms: [plain.yaml]\n", "tasks"},
                         {"tasks: [absent.yaml]\n", "absent.yaml", exit_missing},
                         {"tasks: [task.yaml]\nmechanisms: [plain.yaml, ./plain.yaml]\n",
                          "two runs would be called task-plain-seed0"},
                         {"tasks: [task.yaml]\nseeds: [1, 1]\n", "two runs would be called task-seed1"},
                         {"tasks: [task.yaml]\nset: [training.stps=2]\n", "training.stps"},
                         {"tasks: [task.yaml]\nexclude: ['nothing-*']\n", "fits no run"},
                         {"tasks: [task.yaml]\nexclude: ['*']\n", "leaves no run"}}) {
    write_bytes(folder / "sweep.yaml", mistake.text);
    const Outcome outcome = sweep("--out runs");
    EXPECT_EQ(outcome.code, mistake.code) << mistake.text << outcome.out;
    EXPECT_TRUE(holds(outcome.out, mistake.message)) << outcome.out;
    EXPECT_FALSE(fs::exists(folder / "runs"));
  }
  write_sweep("2");
  EXPECT_EQ(sweep("--out runs --only nothing").code, exit_config);
}

TEST_F(Sweep, report_collects_a_ledger_and_keeps_a_page) {
  write_sweep("2", "seeds: [1]\n");
  ASSERT_EQ(sweep("--out runs").code, 0);
  const auto report = [&](const std::string& arguments) {
    return tern_process("report " + arguments, folder.path());
  };
  const Outcome collected = report("runs --collect ledger");
  EXPECT_TRUE(holds(collected.out, "2 results, 2 of them new")) << collected.out;
  EXPECT_TRUE(holds(report("runs --collect ledger").out, "0 of them new"));

  write_bytes(folder / "page.md", "before\n<!-- report -->\n<!-- end report -->\nafter\n");
  EXPECT_EQ(report("ledger --page page.md --check").code, exit_failed);
  EXPECT_EQ(report("ledger --page page.md").code, 0);
  EXPECT_EQ(report("ledger --page page.md --check").code, 0);
  const std::string page = read_bytes(folder / "page.md");
  EXPECT_TRUE(page.starts_with("before\n<!-- report -->\n**Test accuracy"));
  EXPECT_TRUE(page.ends_with("<!-- end report -->\nafter\n"));

  for (const char* format : {"markdown", "csv", "runs", "latex", "html"}) {
    const Outcome outcome = report("ledger --format " + std::string(format));
    EXPECT_EQ(outcome.code, 0);
    EXPECT_TRUE(holds(outcome.out, "Softmax")) << format;
  }
  EXPECT_EQ(report("nowhere").code, exit_missing);
  fs::create_directory(folder / "empty");
  EXPECT_EQ(report("empty").code, exit_missing) << "no run is there";
  EXPECT_EQ(report("data").code, exit_bad_data) << "manifest.json is no result";
}

TEST(ShippedSweeps, name_sound_files) {
  int count = 0;
  const TemporaryFolder out;
  for (const auto& entry : fs::directory_iterator(source_folder() / "configs/sweeps")) {
    const Outcome outcome =
        tern_command({"sweep", entry.path().string(), "--dry-run", "--out", (out / "runs").string()});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    ++count;
  }
  EXPECT_GE(count, 4);
}

TEST(Ledger, page_with_the_results_is_up_to_date) {
  const Outcome outcome = tern_command({"report", (source_folder() / "docs/results/lra").string(), "--page",
                                        (source_folder() / "docs/reproducing.md").string(), "--check"});
  EXPECT_EQ(outcome.code, 0) << outcome.err
                             << "write it anew: tern report docs/results/lra --page docs/reproducing.md";
}

}  // namespace
}  // namespace tern::test
