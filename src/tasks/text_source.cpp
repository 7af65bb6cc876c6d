#include "tasks/text_source.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "base/parsed_number.h"
#include "data/loader.h"
#include "io/json.h"
#include "tasks/bytes.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr std::int64_t published_records = 25000;  // train and test each
constexpr std::array<std::string_view, 2> label_folders{"neg", "pos"};

struct Review {
  std::int32_t label = 0;
  std::int64_t id = 0;
  std::string text;
};

/// What the name of a review's file says.
struct ReviewName {
  std::string split;
  std::int32_t label = 0;
  std::int64_t id = 0;
};

std::optional<std::int64_t> whole_number(std::string_view text) {
  const auto number = parsed_number<std::int64_t>(text);
  return number && *number >= 0 ? number : std::nullopt;
}

/// .../test/pos/12_9.txt
std::optional<ReviewName> review_name(std::string_view path) {
  const std::string_view file = pop_part(path), sentiment = pop_part(path), split = pop_part(path);
  const auto label = std::find(label_folders.begin(), label_folders.end(), sentiment);
  const std::size_t bar = file.find('_');
  if ((split != "train" && split != "test") || label == label_folders.end() || bar == file.npos ||
      !file.ends_with(".txt"))
    return {};
  const auto id = whole_number(file.substr(0, bar));
  if (!id || !whole_number(file.substr(bar + 1, file.size() - bar - 5))) return {};
  return ReviewName{std::string(split), static_cast<std::int32_t>(label - label_folders.begin()), *id};
}

/// The split of a table, by its name; empty for other files.
std::string table_split(std::string_view path) {
  const std::string_view file = base_name(path);
  for (const std::string_view split : {"train", "test"}) {
    const std::string name = std::string(split) + ".tsv";
    if (file == name || (file.ends_with("_" + name) && file.front() != '.')) return std::string(split);
  }
  return "";
}

/// One line of a table, or nothing if it is none.
std::optional<Review> review_of(std::string_view line) {
  const std::vector<std::string_view> fields = tab_fields(line, 4);
  if (fields.size() != 4) return {};
  const auto label = whole_number(fields[0]), id = whole_number(fields[1]), rating = whole_number(fields[2]);
  if (!label || *label >= text_classes || !id || !rating || fields[3].empty()) return {};
  return Review{static_cast<std::int32_t>(*label), *id, std::string(fields[3])};
}

class Reviews {
 public:
  Reviews(const Sources& sources, Preparation& preparation) : preparation_(preparation) {
    for_each_file(sources, [&](io::SourceFiles& file) { read(file); });
    for (const bool is_test : {false, true}) {
      std::vector<Review>& all = of(is_test);
      const char* split = is_test ? "test" : "train";
      if (all.empty())
        throw_error(ExitCode::bad_data,
                    "{}: no review of the split {} is in it; name further sources, such as the other "
                    "table",
                    to_text(sources.paths), split);
      put_in_order(all, split);
      warn_if_incomplete(split, static_cast<std::int64_t>(all.size()), published_records);
    }
  }
  std::vector<Review>& of(bool is_test) { return is_test ? test_ : train_; }

 private:
  void read(io::SourceFiles& file) {
    const std::string split = table_split(file.name());
    if (!split.empty()) return read_table(file, split);
    const ReviewName name = *review_name(file.name());
    std::string text, fault = "an empty review";
    try {
      text = file.read();
    } catch (const Error& error) {
      if (error.code() != ExitCode::bad_data) throw;
      fault = error.what();
    }
    if (text.empty()) return preparation_.skip({name.split, file.where(), fault});
    of(name.split == "test").push_back({name.label, name.id, std::move(text)});
  }
  void read_table(io::SourceFiles& file, const std::string& split) {
    std::string line;
    while (file.read_line(line)) {
      std::optional<Review> review = review_of(line);
      if (review)
        of(split == "test").push_back(std::move(*review));
      else
        preparation_.skip({split, file.where(), "must be: label (0 or 1) TAB id TAB rating TAB text"});
    }
  }
  static void put_in_order(std::vector<Review>& reviews, std::string_view split) {
    const auto key = [](const Review& review) { return std::pair(review.label, review.id); };
    std::sort(reviews.begin(), reviews.end(),
              [&](const Review& a, const Review& b) { return key(a) < key(b); });
    const auto twice = std::adjacent_find(reviews.begin(), reviews.end(),
                                          [&](const Review& a, const Review& b) { return key(a) == key(b); });
    if (twice != reviews.end())
      throw_error(ExitCode::bad_data, "the review {}/{}/{} comes twice; name each source once", split,
                  label_folders[static_cast<std::size_t>(twice->label)], twice->id);
  }

  Preparation& preparation_;
  std::vector<Review> train_, test_;
};

}  // namespace

Sources text_sources(std::vector<std::filesystem::path> paths) {
  return {std::move(paths),
          [](std::string_view name) { return review_name(name).has_value() || !table_split(name).empty(); },
          "aclImdb/{train,test}/{pos,neg}/*.txt or [*_]train.tsv and [*_]test.tsv"};
}

data::RecordHeader text_header(const TextOptions& options) {
  data::RecordHeader header;
  header.task = "text";
  header.options = io::dump_json({{"held_out", options.held_out}});
  header.seed = options.seed;
  header.vocabulary = byte_vocabulary;
  header.classes = text_classes;
  header.token_type = DType::uint16;
  header.padded_length = 4096;
  return header;
}

void prepare_text(const Sources& sources, const TextOptions& options, Preparation& preparation) {
  Reviews reviews(sources, preparation);
  const auto count = static_cast<std::int64_t>(reviews.of(false).size());
  require(options.held_out >= 0 && options.held_out < count,
          "text: the records held out for dev must be fewer than the {} of train, got {}", count,
          options.held_out);
  const std::int64_t kept = count - options.held_out;
  const auto write = [&](std::string_view split, bool is_test, std::int64_t begin, std::int64_t end) {
    const std::vector<Review>& all = reviews.of(is_test);
    const std::vector<std::int64_t> order =
        data::shuffled_order(static_cast<std::int64_t>(all.size()), options.seed, order_epoch);
    if (!preparation.wants(split)) return;
    for (std::int64_t i = begin; i < end; ++i) {
      const Review& review = all[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
      const std::vector<std::int32_t> ids = byte_ids(review.text, 0);
      const std::span<const std::int32_t> sequence = ids;
      preparation.writer(split).append(std::span(&sequence, 1), review.label);
    }
    preparation.finish(split);
  };
  const auto tests = static_cast<std::int64_t>(reviews.of(true).size());
  write("train", false, 0, kept);
  if (options.held_out > 0)
    write("dev", false, kept, count);
  else
    write("dev", true, 0, tests);
  write("test", true, 0, tests);
  preparation.complete();
}

}  // namespace tern::tasks
