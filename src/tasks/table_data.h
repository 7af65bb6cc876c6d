// The user's own labelled texts, from TSV or JSON Lines files (io/table.h) to record files: the tasks
// classification, pair and regression. Ids are bytes + 1 (tasks/bytes.h).
//
// Labels of classes are names; a class's number is its place among the names of the training file in sorted
// order (as numbers where all are integers), or in the order that is given. A development or test split that
// no file is given for is drawn from the training file: the seed decides which records, and they keep their
// order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/table.h"
#include "tasks/prepared_data.h"

namespace tern::tasks {

struct TableDataOptions {
  std::string task = "classification";  ///< or pair or regression
  std::filesystem::path train;
  std::filesystem::path dev, test;         ///< empty: drawn from train
  std::vector<std::string> texts{"text"};  ///< columns of the text, or of both texts of a pair
  std::string label = "label";             ///< column of the class's name or the number to predict
  bool has_header = false;                 ///< as in io::TableOptions
  std::optional<io::TableFormat> format;   ///< nothing: by each file's extension
  std::vector<std::string> classes;        ///< their names in order; empty: those of train, sorted
  std::int64_t max_length = 4096;          ///< bytes kept of a text
  double held_out = 0.1;                   ///< share of train that each absent split gets
  std::uint64_t seed = 0;
};

/// One preparation, which reads the training file twice: first for what all splits must agree on.
class TableData {
 public:
  /// The first pass. Error(bad_data) where the file cannot serve: too few records, fewer than two classes, or
  /// labels that are no names. Malformed lines are left to the second pass.
  explicit TableData(TableDataOptions options);

  /// padded_length is the longest text of train, but at most max_length. The options name the columns
  /// ("texts", "label", "has_header") and the classes ("class_names").
  const data::RecordHeader& header() const { return header_; }
  std::vector<io::SourceFingerprint> sources() const;

  /// The second pass: writes the splits that are wanted. Malformed lines, and labels that the classes lack, are
  /// damaged items.
  void write(Preparation& preparation);
  /// Texts that write() cut to padded_length, and empty ones, which it kept.
  std::int64_t cut() const { return cut_; }
  std::int64_t empty() const { return empty_; }

 private:
  struct Record {
    std::vector<std::string> texts;
    std::string label;
    std::string place, fault;
  };
  bool has_classes() const { return options_.task != "regression"; }
  /// Calls `use` with each line of a file.
  void read(const std::filesystem::path& file, const std::function<void(const Record&)>& use) const;
  void learn(const Record& record);
  /// What is wrong with the first line that cannot be used, to end a message; empty where all can.
  std::string first_fault_note() const;
  void order_classes();
  void draw_splits();
  std::string options_text() const;
  /// Why the record cannot be used, or an empty text.
  std::string fault_of(const Record& record) const;
  void append(Preparation& preparation, std::string_view split, const Record& record);

  TableDataOptions options_;
  data::RecordHeader header_;
  std::unordered_map<std::string, std::int32_t> classes_;
  std::int64_t records_ = 0, longest_ = 0;  // usable ones of train
  std::string first_fault_;                 // of train, with its place
  std::vector<std::uint8_t> splits_;        // place in split_names of each of them
  std::int64_t cut_ = 0, empty_ = 0;
};

}  // namespace tern::tasks
