#include <csignal>

#include <unistd.h>

#include "tern/trainer.h"

namespace tern {
namespace {

volatile std::sig_atomic_t stop_flag = 0;

void on_signal(int signal) {
  if (stop_flag != 0 && signal == SIGINT) _exit(128 + SIGINT);
  stop_flag = 1;
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
  struct sigaction before {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN)
    sigaction(SIGHUP, &action, nullptr);  // nohup asks to go on without a terminal
}

bool stop_requested() { return stop_flag != 0; }

}  // namespace tern
