#include "app/score_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "app/output.h"
#include "io/json.h"
#include "tern/error.h"

namespace tern::app {
namespace {

/// Six significant digits: what is behind them differs with the batch and the device.
double rounded(double number) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", number);
  return std::strtod(text.data(), nullptr);
}

std::string number_text(double number) { return io::dump_json(rounded(number)); }

std::vector<double> probabilities_of(std::span<const double> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  std::vector<double> probabilities;
  double sum = 0;
  for (const double logit : logits) sum += probabilities.emplace_back(std::exp(logit - most));
  for (double& probability : probabilities) probability /= sum;
  return probabilities;
}

std::size_t best_of(std::span<const double> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

ScoreWriter::ScoreWriter(const std::optional<std::filesystem::path>& path, io::TableFormat format,
                         const Task& task, bool has_labels)
    : format_(format), task_(task), has_labels_(has_labels) {
  if (path) file_.emplace(*path);
  if (format_ != io::TableFormat::tsv) return;
  std::string head = has_labels_ ? "row\tlabel" : "row";
  head += task_.interface.is_regression ? "\tvalue" : "\tclass";
  if (!task_.interface.is_regression)
    for (std::int64_t c = 0; c < task_.interface.outputs; ++c)
      head += "\tp(" + class_name(static_cast<std::size_t>(c)) + ")";
  put(head + "\n");
}

std::string ScoreWriter::class_name(std::size_t index) const {
  return index < task_.class_names.size() ? task_.class_names[index] : std::to_string(index);
}

void ScoreWriter::put(const std::string& line) {
  if (file_)
    file_->write(line);
  else
    print(line);
}

void ScoreWriter::write(std::span<const double> outputs, const std::string& label) {
  ++rows_;
  for (const double output : outputs)
    if (!std::isfinite(output))
      throw_error(
          ExitCode::failed,
          "predict: the model's outputs must be finite, got {} in row {}; take another checkpoint, or --set "
          "run.precision=float32",
          output, rows_);
  put((format_ == io::TableFormat::tsv ? tsv_row(outputs, label) : json_row(outputs, label)) + "\n");
}

std::string ScoreWriter::tsv_row(std::span<const double> outputs, const std::string& label) const {
  std::string row = std::to_string(rows_) + (has_labels_ ? "\t" + label : "");
  if (task_.interface.is_regression) return row + "\t" + number_text(outputs[0]);
  row += "\t" + class_name(best_of(outputs));
  for (const double probability : probabilities_of(outputs)) row += "\t" + number_text(probability);
  return row;
}

std::string ScoreWriter::json_row(std::span<const double> outputs, const std::string& label) const {
  std::string row =
      "{\"row\":" + std::to_string(rows_) + (has_labels_ ? ",\"label\":" + io::dump_json(label) : "");
  if (task_.interface.is_regression) return row + ",\"value\":" + number_text(outputs[0]) + "}";
  row += ",\"class\":" + io::dump_json(class_name(best_of(outputs))) + ",\"probabilities\":{";
  const std::vector<double> probabilities = probabilities_of(outputs);
  for (std::size_t c = 0; c < probabilities.size(); ++c)
    row += (c > 0 ? "," : "") + io::dump_json(class_name(c)) + ":" + number_text(probabilities[c]);
  return row + "}}";
}

void ScoreWriter::write_fault(const std::string& fault) {
  ++rows_;
  const std::int64_t numbers = task_.interface.is_regression ? 0 : task_.interface.outputs;
  const auto tabs = static_cast<std::size_t>((has_labels_ ? 2 : 1) + numbers);
  put(format_ == io::TableFormat::tsv
          ? std::to_string(rows_) + std::string(tabs, '\t') + "\n"
          : io::dump_json({{"row", rows_}, {"error", io::utf8_text(fault)}}) + "\n");
}

void ScoreWriter::finish() {
  if (file_) file_->commit();
}

}  // namespace tern::app
