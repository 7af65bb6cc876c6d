// The program around the commands: global options, help, and what becomes of errors.
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <new>

#include "app/commands.h"
#include "base/blas.h"
#include "config/suggest.h"
#include "tern/build_info.h"
#include "tern/device.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

constexpr const char* examples =
    "Examples: tern data prepare listops\n"
    "          tern train configs/lra/listops.yaml --set model.attention.kind=yoso --out runs/listops";

/// Examples, which commands give as their footer, come first: most readers need nothing below them.
struct Help final : CLI::Formatter {
  std::string make_description(const CLI::App* app) const override {
    const std::string footer = app->get_footer();
    return (footer.empty() ? "" : footer + "\n\n") + CLI::Formatter::make_description(app);
  }
  std::string make_footer(const CLI::App*) const override { return ""; }
};

std::string version_text() {
  const BuildInfo& build = build_info();
  return format_text("tern {}\ncommit: {}\ncompiler: {}\nCUDA: {}\nBLAS: {}\ninstruction set: x86-64-{}",
                     build.version, build.commit, build.compiler,
                     build.cuda.empty() ? "not built in" : build.cuda, blas::description(), name(cpu_isa()));
}

void add_global_options(CLI::App& app) {
  static const std::map<std::string, logging::Level> levels{{"debug", logging::Level::debug},
                                                            {"info", logging::Level::info},
                                                            {"warning", logging::Level::warning},
                                                            {"error", logging::Level::error}};
  app.add_flag_callback(
      "--version", [] { throw CLI::CallForVersion(version_text(), 0); },
      "version, commit, compiler, CUDA, BLAS and instruction set");
  app.add_option_function<std::string>(
         "--log-level", [](const std::string& word) { logging::set_level(levels.at(word)); },
         "lowest level of messages on stderr: debug, info (default), warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  app.add_flag_callback(
      "--quiet", [] { logging::set_level(logging::Level::error); }, "only errors on stderr");
}

void add_commands(CLI::App& app) {
  add_train_command(app);
  add_evaluate_command(app);
  add_predict_command(app);
  add_describe_command(app);
  add_list_command(app);
  add_data_command(app);
  add_checkpoint_command(app);
  add_config_command(app);
  add_doctor_command(app);
  add_bench_command(app);
  add_sweep_command(app);
  add_report_command(app);
}

/// The innermost command that the arguments reached.
const CLI::App& reached(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? app : reached(*parsed.front());
}

std::string full_name(const CLI::App& app) {
  return app.get_parent() == nullptr ? "tern" : full_name(*app.get_parent()) + " " + app.get_name();
}

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    if (!sub->get_name().empty()) names.push_back(sub->get_name());  // groups of options have none
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* level = &app; level != nullptr; level = level->get_parent())
    for (const CLI::Option* option : level->get_options())
      for (const std::string& word : option->get_lnames()) names.push_back("--" + word);
  return names;
}

/// A missing argument with its meaning, other mistakes as they are told.
std::string explained(const CLI::App& command, const std::string& mistake) {
  for (const CLI::Option* option : command.get_options())
    if (mistake == option->get_name() + " is required") return mistake + ": " + option->get_description();
  return mistake;
}

std::string usage_mistake(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = reached(app);
  const std::vector<std::string> rest = app.remaining(true);
  const std::vector<std::string> commands = subcommand_names(command);
  if (rest.empty() && commands.empty()) return explained(command, error.what());
  if (rest.empty()) return "a command is required: " + config::joined(commands);
  const std::string& word = rest.front();
  const bool is_option = word.starts_with("-");
  const std::vector<std::string> known = is_option ? option_names(command) : commands;
  const std::vector<std::string> near = config::nearest(word, known, config::slip_limit(word));
  std::string text = (is_option       ? "unknown option "
                      : known.empty() ? "unexpected argument "
                                      : "unknown command ") +
                     word;
  if (!near.empty()) return text + "; did you mean " + config::alternatives(near) + "?";
  return is_option || known.empty() ? text : text + "; commands: " + config::joined(known);
}

int complain(const std::string& text, ExitCode code) {
  std::fflush(stdout);
  std::cerr << "tern: " << text << std::endl;
  return static_cast<int>(code);
}

int parse_and_execute(CLI::App& app, const std::vector<std::string>& arguments) {
  try {
    // CLI11 takes the arguments in reverse.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::Success& wish) {
    app.exit(wish, std::cout, std::cerr);
    std::cout.flush();
  } catch (const CLI::ParseError& error) {
    return complain(usage_mistake(app, error) + "\nsee " + full_name(reached(app)) + " --help",
                    ExitCode::usage);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout)
    throw_error(ExitCode::io_error, "the output could not be written; is the disk full, or the pipe closed?");
  return static_cast<int>(ExitCode::done);
}

}  // namespace

int run(const std::vector<std::string>& arguments) {
  logging::set_level(logging::Level::info);
  try {
    CLI::App app("Trains Transformers on long sequences.", "tern");
    app.formatter(std::make_shared<Help>());
    app.footer(examples);
    app.require_subcommand(1);
    app.fallthrough();
    app.set_help_flag("-h,--help", "print this help");
    add_global_options(app);
    add_commands(app);
    return parse_and_execute(app, arguments);
  } catch (const Error& error) {
    return complain(error.what(), error.code());
  } catch (const std::filesystem::filesystem_error& error) {  // what the standard library asks of a path
    return complain(format_text("{}: must be a path that can be used, got: {}; check it and its permissions",
                                error.path1(), error.code().message()),
                    ExitCode::io_error);
  } catch (const std::bad_alloc&) {
    return complain("out of memory; lower training.batch_size and raise training.accumulate by the same factor",
                    ExitCode::failed);
  } catch (const std::exception& error) {
    return complain(std::string("internal error: ") + error.what() + "; please report this",
                    ExitCode::internal);
  }
}

}  // namespace tern::app
