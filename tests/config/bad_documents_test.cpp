// Every way of writing a configuration wrongly: exit code, line and words of the message.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "config/bad_document.h"

namespace tern {
namespace {

using namespace sample;

/// A document with one mistaken line in a section: the rest must be silent.
BadDocument in_section(const std::string& section, const std::string& line,
                       std::vector<std::string> fragments) {
  return {task + section + ":\n  " + line + "\n", "3:", std::move(fragments)};
}

TEST(BadDocuments, syntax) {
  expect_reported({
      {"", "", {"holds no keys"}},
      {"\n\n", "", {"holds no keys"}},
      {"# only a comment\n", "", {"holds no keys"}},
      {"---\n", "", {"holds no keys"}},
      {"~\n", "", {"holds no keys"}},
      {"%\n", "", {"holds no keys"}},
      {",", "1:1:", {"unexpected text"}},
      {"- 1\n- 2\n", "1:1:", {"must be a map of keys, got a list"}},
      {"listops\n", "1:1:", {"must be a map of keys, got \"listops\""}},
      {"42\n", "1:1:", {"must be a map of keys"}},
      {task + "run:\n\tname: x\n", "3:1:", {"tab", "spaces"}},
      {task + "run:\n  name: x\n  \tseed: 3\n", "4:3:", {"tab"}},
      {task + "run: {name: x\n", "3:", {"not valid YAML"}},
      {task + "run:\n  name: \"x\n", "4:", {"not valid YAML"}},
      {task + "run:\n  name: 'x\n", "4:", {"not valid YAML"}},
      {task + "run:\n  notes: [a, b\n", "4:", {"not valid YAML"}},
      {task + "run:\n  name: x\n seed: 3\n", "4:", {"not valid YAML"}},
      {task + "run: name: x\n", "2:", {"not valid YAML"}},
      {task + "run:\n  name: *nowhere\n", "3:", {"anchor"}},
      {task + "run: &a\n  notes: [*a]\n", "3:", {"inside the value that it names"}},
      {task + "run:\n  seed: !!int 5\n", "3:", {"tags", "not supported"}},
      {task + "run:\n  name: !secret x\n", "3:", {"tags", "not supported"}},
      {task + "run:\n  name: !!binary aGk=\n", "3:", {"tags", "not supported"}},
      {task + "---\nrun: {name: x}\n", "2:", {"one YAML document"}},
      {task + "...\nmore\n", "3:", {"one YAML document"}},
      {task + "? [a, b]\n: 1\n", "2:", {"key must be plain text"}},
      {task + "? {a: b}\n: 1\n", "2:", {"key must be plain text"}},
      {task + "~: 1\n", "2:", {"key must be plain text"}},
      {task + "}\n", "2:", {"not valid YAML"}},
  });
}

TEST(BadDocuments, bytes_and_limits) {
  std::string deep = "notes: ", wide = task + "run:\n  notes: [", bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n",
              aliases;
  for (int i = 0; i < 70; ++i) deep += "[";
  for (int i = 0; i < 70; ++i) deep += "]";
  for (int i = 0; i < 100001; ++i) wide += "1,";
  for (char c = 'b'; c < 'h'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 9; ++i) bomb += std::string(i == 0 ? "*" : ",*") + static_cast<char>(c - 1);
    bomb += "]\n";
  }
  for (int i = 0; i < 101; ++i) aliases += i == 0 ? "*a" : ", *a";
  expect_reported({
      {std::string("run: \0x\n", 8), "1:6:", {"control character"}},
      {task + "run:\n  name: \x01\n", "3:9:", {"control character"}},
      {task + "run:\n  name: \xff\xfe\n", "3:9:", {"not UTF-8"}},
      {task + "run:\n  name: \xc0\xaf\n", "3:9:", {"not UTF-8"}},
      {task + "run:\n  name: \xed\xa0\x80\n", "3:9:", {"not UTF-8"}},
      {task + "run:\n  name: \xe2\x82", "3:9:", {"not UTF-8"}},
      {std::string("\xff\xfe") + std::string("r\0u\0", 4), "1:1:", {"not UTF-8"}},
      {"\x7f"
       "ELF",
       "1:1:",
       {"text file"}},
      {"task: {kind: listops}\rrun: {}\n", "1:22:", {"carriage return"}},
      {task + "run: {name: \"" + std::string(1 << 20, 'x') + "\"}\n", "", {"larger than 1 MiB"}},
      {deep + "\n", "1:", {"64 levels"}},
      {wide + "1]\n", "3:", {"100000"}},
      {bomb, "6:", {"100000"}},
      {"a: &a 1\nb: [" + aliases + "]\n", "2:", {"100 aliases"}},
  });
}

TEST(BadDocuments, keys) {
  expect_reported({
      in_section("model", "layer: 3", {"model.layer is not a known key", "did you mean model.layers?"}),
      in_section("model", "Layers: 3", {"did you mean model.layers?"}),
      in_section("model", "hidden-width: 3", {"did you mean model.hidden_width?"}),
      in_section("model", "hiddenWidth: 4", {"did you mean model.hidden_width?"}),
      in_section("model", "learning_rate: 3", {"did you mean training.learning_rate?"}),
      in_section("model", "zzzzzzzz: 3", {"model accepts layers, heads, hidden_width"}),
      in_section("model", "attention.kind: yoso", {"is not a known key", "--set"}),
      in_section("model", "<<: {layers: 3}", {"merge keys", "base"}),
      in_section("model", "\"la yers\": 3", {"is not a known key"}),
      in_section("model", "\"\": 3", {"is not a known key"}),
      in_section("training", "max_iterations: 3", {"it is now training.steps"}),
      in_section("run", "decay: linear", {"run.decay is not a known key; it is now training.schedule"}),
      {task + "optimizer:\n  lr: 3\n",
       "2:1:",
       {"optimizer is not a known key", "it is now training.learning_rate"}},
      {task + "modle:\n  layers: 3\n", "2:1:", {"modle is not a known key", "did you mean model?"}},
      {task + "layers: 3\n", "2:1:", {"did you mean model.layers?"}},
      {task + "run: {seed: 1}\nmodel: {layers: 1}\nrun: {seed: 2}\n", "4:1:", {"\"run\"", "twice", "line 2"}},
      {task + "run:\n  seed: 1\n  name: x\n  seed: 2\n", "5:3:", {"\"seed\"", "twice", "line 3"}},
      {task + "run: {seed: 1, seed: 1}\n", "2:16:", {"twice"}},
      {"task: {kind: listops, folder: /x, kind: listops}\n", "1:35:", {"\"kind\"", "twice"}},
      {task + "run: 3\n", "2:6:", {"run must be a section of keys, got \"3\""}},
      {task + "run: [a]\n", "2:6:", {"run must be a section of keys, got a list"}},
      {"run: {seed: 3}\n", "1:1:", {"task.kind must be set", "listops"}},
      {"task: {kind: listops}\n", "1:7:", {"task.folder must be set"}},
  });
}

TEST(BadDocuments, integers) {
  expect_reported({
      in_section("model", "layers: two", {"3:11:", "model.layers must be an integer, got \"two\""}),
      in_section("model", "layers: 2.5", {"must be an integer"}),
      in_section("model", "layers: 2.0", {"must be an integer", "write 2"}),
      in_section("model", "layers: 1e1", {"must be an integer", "write 10"}),
      in_section("model", "layers: 010", {"octal", "write 10"}),
      in_section("model", "layers: 0x10", {"decimal"}),
      in_section("model", "layers: 0o10", {"decimal"}),
      in_section("model", "layers: 1_000", {"without underscores"}),
      in_section("model", "layers: \"2\"", {"quoted", "remove the quotation marks"}),
      in_section("model", "layers: 3000000000", {"[-2147483648, 2147483647]"}),
      in_section("model", "layers: 99999999999999999999", {"[-2147483648, 2147483647]"}),
      in_section("model", "layers: 0", {"must be at least 1, got 0"}),
      in_section("model", "layers: -1", {"must be at least 1, got -1"}),
      in_section("model", "layers: --1", {"must be an integer"}),
      in_section("model", "layers: +-1", {"must be an integer"}),
      in_section("model", "layers:", {"must be an integer, got no value"}),
      in_section("model", "layers: null", {"must be an integer, got no value"}),
      in_section("model", "layers: [2]", {"must be an integer, got a list"}),
      in_section("model", "layers: {a: 2}", {"must be an integer, got a section"}),
      in_section("model", "layers: true", {"must be an integer"}),
      in_section("run", "seed: -1", {"[0, 18446744073709551615]"}),
      in_section("run", "seed: 18446744073709551616", {"[0, 18446744073709551615]"}),
      in_section("training", "steps: 9223372036854775808", {"9223372036854775807"}),
  });
}

TEST(BadDocuments, other_values) {
  expect_reported({
      in_section("model", "dropout: 1", {"must be at least 0 and below 1, got 1"}),
      in_section("model", "dropout: -0.1", {"must be at least 0 and below 1, got -0.1"}),
      in_section("model", "dropout: .nan", {"finite"}),
      in_section("model", "dropout: nan", {"finite"}),
      in_section("model", "dropout: -.inf", {"finite"}),
      in_section("model", "dropout: 0,1", {"decimal point"}),
      in_section("model", "dropout: 01.5", {"leading zero"}),
      in_section("model", "dropout: 0x1p-3", {"decimal"}),
      in_section("model", "dropout: 1e", {"must be a number"}),
      in_section("model", "dropout: 10%", {"must be a number"}),
      in_section("training", "learning_rate: 1e400", {"double"}),
      in_section("training", "learning_rate: 0", {"must be positive"}),
      in_section("training", "learning_rate: 1 e-4", {"must be a number"}),
      in_section("training", "clip: off", {"must be a number"}),
      in_section("training", "clip: -1", {"must be positive"}),
      in_section("run", "check_finite: yes", {"must be true or false, got \"yes\"", "write true"}),
      in_section("run", "check_finite: off", {"write false"}),
      in_section("run", "check_finite: True", {"write true"}),
      in_section("run", "check_finite: 1", {"write true"}),
      in_section("run", "check_finite: \"true\"", {"quotation marks"}),
      in_section("run", "check_finite: maybe", {"must be true or false"}),
      in_section("run", "name: [a]", {"must be text, got a list"}),
      in_section("run", "name: {a: b}", {"must be text, got a section"}),
      in_section("run", "name:", {"must be text, got no value"}),
      in_section("run", "name: \"\"", {"must be not empty"}),
      in_section("run", "notes: a", {"must be a list in [brackets]"}),
      in_section("run", "notes: [a, [b]]", {"3:14:", "each item must be text"}),
      in_section("run", "switches: [true, yes]", {"each item must be true or false"}),
      in_section("training", "betas: [0.9, 1.5]", {"in [0, 1]"}),
      in_section("training", "betas: []", {"not empty"}),
      in_section("training", "milestones: [1, two]", {"3:19:", "each item must be an integer"}),
      in_section("training", "schedule: exponential", {"one of constant, linear, cosine", "exponential"}),
      in_section("model", "families: [gauss]", {"one of gaussian, interleaved, hadamard"}),
      in_section("model", "heads: 3", {"3:10:", "model.heads must divide hidden_width, got 3"}),
      in_section("model", "hidden_width: 65", {"model.heads must divide hidden_width, got 2"}),
  });
}

TEST(BadDocuments, choices) {
  const std::string start = task + "model:\n  attention:\n";
  expect_reported({
      {start + "    kind: yosso\n",
       "4:11:",
       {"kind must be one of softmax, yoso, nystrom", "did you mean yoso?"}},
      {start + "    kind: [yoso]\n", "4:", {"must be one of", "a list"}},
      {start + "    kind:\n", "4:", {"must be one of", "no value"}},
      {start + "    knid: yoso\n", "4:5:", {"did you mean model.attention.kind?"}},
      {task + "model:\n  attention: yoso\n", "3:14:", {"must be a section of keys, got \"yoso\""}},
      {start + "    kind: nystrom\n    landmark: 3\n",
       "5:5:",
       {"model.attention.landmark is not a known key", "did you mean model.attention.landmarks?",
        "(kind nystrom accepts landmarks, inverse_steps, conv_window)"}},
      {start + "    kind: nystrom\n    hashes: 3\n", "5:5:", {"of kind nystrom", "kind yoso has it"}},
      {start + "    hashes: 3\n", "4:5:", {"of kind softmax", "kind yoso has it", "no keys of its own"}},
      {start + "    kind: nystrom\n    segments: 3\n", "5:5:", {"it is now model.attention.landmarks"}},
      {start + "    kind: yoso\n    conv_window: 4\n", "5:18:", {"at least 0 and odd, or 0"}},
      {start + "    kind: yoso\n    conv_window: -3\n", "5:18:", {"at least 0 and odd, or 0"}},
      {start + "    kind: yoso\n    bits: 21\n", "5:11:", {"in [1, 20]"}},
      {start + "    kind: yoso\n    hash: md5\n", "5:11:", {"one of gaussian"}},
  });
}

TEST(BadDocuments, overrides) {
  const auto with = [](const std::string& text, std::vector<std::string> fragments) {
    return BadDocument{task, "--set " + text + ": ", std::move(fragments), {text}};
  };
  expect_reported({
      with("model.layers", {"key=value"}),
      with("=3", {"begin with a key"}),
      with("model..layers=3", {"begin with a key"}),
      with("model.=3", {"begin with a key"}),
      with("base=x.yaml", {"only stand in a file"}),
      with("model.layer=3", {"did you mean model.layers?"}),
      with("model.layers=two", {"must be an integer"}),
      with("model.layers=", {"got no value"}),
      with("model.layers=010", {"octal"}),
      with("model.layers=0", {"at least 1"}),
      with("model=3", {"section of keys"}),
      with("model={layers: 3}", {"one by one"}),
      with("training.betas=0.9", {"[brackets]"}),
      with("training.betas=[0.9", {}),
      with("model.layers.deep=3",
           {"model.layers.deep is not a known key; model.layers has no keys of its own"}),
      with("model.layers.dropout=0", {"model.layers.dropout is not", "did you mean model.dropout?"}),
      with("a.b=3", {"a.b is not a known key; the file accepts "}),
      with("a.b.c.d=3", {"a.b.c.d is not a known key; the file accepts "}),
      with("modle.widht.x=3", {"modle.widht.x is not a known key; the file accepts "}),
      with("modle.heads=2", {"modle.heads is not a known key; did you mean model.heads?"}),
      with("modle.haeds=2", {"modle.haeds is not a known key; did you mean model.heads?"}),
      with("trainer.loop.learning_rate=1",
           {"trainer.loop.learning_rate", "did you mean training.learning_rate?"}),
      with("optimizer.lr=1", {"optimizer.lr is not a known key; it is now training.learning_rate"}),
      with("model.atention.kind=yoso", {"model.atention.kind is", "did you mean model.attention.kind?"}),
      with("model.attention=yoso", {"a section of keys, got \"yoso\"; did you mean model.attention.kind?"}),
      with("model.attention.kind=yosso", {"did you mean yoso?"}),
      with("model.attention.hashes=4", {"of kind softmax"}),
      with("model.heads=3", {"must divide hidden_width"}),
  });
}

}  // namespace
}  // namespace tern
