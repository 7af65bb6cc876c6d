#include "tasks/retrieval_source.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "io/json.h"
#include "tasks/bytes.h"
#include "tasks/published_lines.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr std::array<PublishedFile, 3> published{{{"train", "new_aan_pairs.train.tsv", 147086},
                                                  {"dev", "new_aan_pairs.eval.tsv", 18090},
                                                  {"test", "new_aan_pairs.test.tsv", 17437}}};
constexpr std::string_view documents_file = "acl_docs.tsv", pairs_file = "acl_pairs.tsv";

std::optional<std::int32_t> label_of(std::string_view text) {
  if (text == "0" || text == "0.0") return 0;
  if (text == "1" || text == "1.0") return 1;
  return {};
}

void append(data::RecordWriter& writer, const std::array<std::string_view, 2>& texts, std::int32_t label,
            std::int64_t max_length) {
  const std::array<std::vector<std::int32_t>, 2> ids{byte_ids(texts[0], max_length),
                                                     byte_ids(texts[1], max_length)};
  const std::array<std::span<const std::int32_t>, 2> sequences{ids[0], ids[1]};
  writer.append(sequences, label);
}

/// One published pair.
void append_line(data::RecordWriter& writer, std::string_view line, std::int64_t max_length) {
  const std::vector<std::string_view> fields = tab_fields(line, 6);
  const auto label = label_of(fields[0]);
  if (fields.size() != 5 || !label)
    throw_error(ExitCode::bad_data, "must be: label (0.0 or 1.0) TAB id1 TAB id2 TAB text1 TAB text2");
  append(writer, {fields[3], fields[4]}, *label, max_length);
}

/// Pairs of documents that stand in a file of their own: read whole, then written.
class DocumentPairs {
 public:
  DocumentPairs(const RetrievalOptions& options, Preparation& preparation)
      : options_(options), preparation_(preparation) {}

  void read(const Sources& sources) {
    std::set<std::string, std::less<>> seen;
    for_each_file(sources, [&](io::SourceFiles& file) {
      const std::string name(base_name(file.name()));
      if (!seen.insert(name).second)
        throw_error(ExitCode::bad_data, "{}: the file comes twice; name each source once", file.where());
      for (std::string line; file.read_line(line);) {
        if (name == documents_file)
          add_document(file, line);
        else
          add_pair(file, line);
      }
    });
    for (const std::string_view name : {documents_file, pairs_file})
      if (!seen.contains(name))
        throw_error(ExitCode::bad_data, "{}: the file {} is not in it; name further sources",
                    to_text(sources.paths), name);
  }

  void write() {
    for (const std::string_view split : split_names) {
      for (const Pair& pair : pairs_)
        if (pair.split == split && preparation_.wants(split)) write(pair);
    }
  }

 private:
  struct Pair {
    std::string split, first, second, place;
    std::int32_t label;
  };

  void add_document(const io::SourceFiles& file, std::string_view line) {
    const std::vector<std::string_view> fields = tab_fields(line, 2);
    if (fields.size() != 2 || fields[0].empty() || fields[1].empty())
      return preparation_.skip({"", file.where(), "must be: id TAB text"});
    std::string text(fields[1].substr(0, static_cast<std::size_t>(options_.max_length)));
    if (!documents_.try_emplace(std::string(fields[0]), std::move(text)).second)
      preparation_.skip({"", file.where(), format_text("the document {} comes twice", fields[0])});
  }
  void add_pair(const io::SourceFiles& file, std::string_view line) {
    const std::vector<std::string_view> fields = tab_fields(line, 5);
    const auto label = fields.size() == 4 ? label_of(fields[1]) : std::nullopt;
    if (!label || std::find(split_names.begin(), split_names.end(), fields[0]) == split_names.end())
      return preparation_.skip({"", file.where(), "must be: train, dev or test TAB label TAB id1 TAB id2"});
    pairs_.push_back(
        {std::string(fields[0]), std::string(fields[2]), std::string(fields[3]), file.where(), *label});
  }
  void write(const Pair& pair) {
    const auto first = documents_.find(pair.first), second = documents_.find(pair.second);
    if (first == documents_.end() || second == documents_.end())
      return preparation_.skip(
          {pair.split, pair.place,
           format_text("there is no document {}", first == documents_.end() ? pair.first : pair.second)});
    append(preparation_.writer(pair.split), {first->second, second->second}, pair.label, options_.max_length);
  }

  const RetrievalOptions& options_;
  Preparation& preparation_;
  std::unordered_map<std::string, std::string> documents_;
  std::vector<Pair> pairs_;
};

}  // namespace

Sources retrieval_sources(std::vector<std::filesystem::path> paths, const RetrievalOptions& options) {
  if (options.is_substitute)
    return {std::move(paths),
            [](std::string_view name) {
              return base_name(name) == documents_file || base_name(name) == pairs_file;
            },
            "acl_docs.tsv and acl_pairs.tsv"};
  return published_sources(std::move(paths), published, "new_aan_pairs.{train,eval,test}.tsv");
}

data::RecordHeader retrieval_header(const RetrievalOptions& options) {
  require(options.max_length >= 1 && options.max_length <= retrieval_text_cap,
          "retrieval: the bytes kept of a text must lie in 1 ... {}, got {}", retrieval_text_cap,
          options.max_length);
  data::RecordHeader header;
  header.task = options.is_substitute ? "retrieval_substitute" : "retrieval";
  io::Json json{{"max_length", options.max_length}};
  if (options.is_substitute)
    json["note"] = "a substitute: citation pairs of the ACL Anthology, not the AAN pairs of Long Range Arena";
  header.options = io::dump_json(json);
  header.vocabulary = byte_vocabulary;
  header.classes = retrieval_classes;
  header.sequences_per_record = 2;
  header.token_type = DType::uint16;
  header.padded_length = 4096;
  return header;
}

void prepare_retrieval(const Sources& sources, const RetrievalOptions& options, Preparation& preparation) {
  if (!options.is_substitute) {
    const auto append = [&](data::RecordWriter& writer, std::string_view line) {
      append_line(writer, line, options.max_length);
    };
    return prepare_lines(sources, published, 0, append, preparation);
  }
  DocumentPairs pairs(options, preparation);
  pairs.read(sources);
  pairs.write();
  preparation.complete();
}

}  // namespace tern::tasks
