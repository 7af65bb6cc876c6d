// Results as runs write them, made up.
#pragma once

#include <filesystem>
#include <string>

#include "io/json.h"
#include "report/run_record.h"
#include "support/temporary_folder.h"

namespace tern::test {

/// A finished softmax run of the small protocol on ListOps by the benchmark's rule, with seed 1 and 36.2 %.
inline io::Json listops_result() {
  io::Json config{{"run.seed", "1"},
                  {"run.threads", "0"},
                  {"run.device", "cuda"},
                  {"run.precision", "bfloat16"},
                  {"run.out", "/somewhere/runs"},
                  {"task.kind", "listops"},
                  {"task.data", "/somewhere/data/prepared/listops"},
                  {"task.padded_length", "2048"},
                  {"model.norm", "pre"},
                  {"model.positions", "learned"},
                  {"model.pooling", "padded_mean"},
                  {"model.dropout", "0.1"},
                  {"model.width", "64"},
                  {"model.heads", "2"},
                  {"model.hidden_width", "128"},
                  {"model.layers", "2"},
                  {"model.attention.kind", "softmax"},
                  {"objective.kind", "labels"},
                  {"schedule.kind", "one_cycle"},
                  {"training.steps", "5000"},
                  {"training.batch_size", "32"},
                  {"training.log_every", "10"}};
  const io::Json options{{"min_length", 501}, {"max_length", 1999}, {"depth", 10}, {"arguments", 10},
                         {"train", 96000},    {"dev", 2000},        {"test", 2000}};
  const auto split = [&](int records, const char* hash) {
    return io::Json{{"task", "listops"},
                    {"records", records},
                    {"seed", 0},
                    {"options", options},
                    {"content_xxh3_128", hash}};
  };
  const auto score = [](double accuracy) {
    return io::Json{{"examples", 2000}, {"loss", 1.8}, {"accuracy", accuracy}};
  };
  return {{"task", "listops"},
          {"attention", "softmax"},
          {"seed", 1},
          {"steps", 5000},
          {"parameters", 209802},
          {"dev_accuracy", 0.372},
          {"test", score(0.362)},
          {"test_drop_last", score(0.363)},
          {"test_majority_accuracy", 0.175},
          {"seconds", 20.0},
          {"dev_seconds", 3.0},
          {"test_seconds", 1.0},
          {"memory", {{"device_peak_bytes", 286106256}}},
          {"fingerprint", "6e91e1fadbf0e1d11de1cc60a2d6615e"},
          {"environment",
           {{"commit", "abcdef012345"},
            {"processor", "a processor"},
            {"gpu", "NVIDIA H100, compute capability 9.0"}}},
          {"config", config},
          {"data", {{"train", split(96000, "aa")}, {"dev", split(2000, "bb")}, {"test", split(2000, "cc")}}},
          {"finished", "2026-01-02T03:04:05Z"}};
}

/// The same with another seed and accuracy, and so with another fingerprint.
inline io::Json listops_result(int seed, double accuracy) {
  io::Json result = listops_result();
  result["seed"] = seed;
  result["config"]["run.seed"] = std::to_string(seed);
  result["test"]["accuracy"] = accuracy;
  result["fingerprint"] = "fingerprint-" + std::to_string(seed) + "-" + std::to_string(accuracy);
  return result;
}

inline void write_run(const std::filesystem::path& folder, const io::Json& result) {
  std::filesystem::create_directories(folder);
  write_bytes(folder / "config.resolved.yaml", "");
  write_bytes(folder / "result.json", io::dump_json(result, 2));
  write_bytes(
      folder / "metrics.jsonl",
      "{\"kind\":\"train\",\"step\":10,\"loss\":2.25}\n{\"kind\":\"dev\",\"step\":10,\"accuracy\":0.25}\n"
      "{\"kind\":\"train\",\"step\":20,\"loss\":2.125}\n{\"kind\":\"dev\",\"st");
}

}  // namespace tern::test
