#include "app/published_data.h"

#include <string>
#include <vector>

#include "io/archive.h"
#include "support/tar.h"
#include "tasks/pathfinder_data.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

void write_archive(const fs::path& folder, const std::string& name, const std::vector<TarEntry>& entries) {
  if (!io::has_archive()) return;
  write_bytes(folder / "all.tar", tar_bytes(entries));
  shell(folder, "gzip -c all.tar > " + name + " && rm all.tar");
}

void write_reviews(const fs::path& folder) {
  std::vector<TarEntry> entries;
  for (const std::string split : {"train", "test"}) {
    std::string table;
    for (int id = 0; id < 12; ++id)
      for (const int label : {0, 1}) {
        const std::string text =
            std::string(label == 1 ? "fine" : "poor") + " film number " + std::to_string(id) + " of " + split;
        const std::string rating = label == 1 ? "8" : "3";
        entries.push_back(
            {"aclImdb/" + split + (label == 1 ? "/pos/" : "/neg/") + std::to_string(id) + "_" + rating + ".txt",
             text, '0', ""});
        table += std::to_string(label) + "\t" + std::to_string(id) + "\t" + rating + "\t" + text + "\n";
      }
    write_bytes(folder / ("imdb_" + split + ".tsv"), table);
  }
  for (const TarEntry& entry : entries) {
    fs::create_directories((folder / entry.name).parent_path());
    write_bytes(folder / entry.name, entry.content);
  }
  write_archive(folder, "aclImdb_v1.tar.gz", entries);
}

void write_images(const fs::path& folder) {
  std::vector<TarEntry> entries;
  for (const char* name :
       {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"}) {
    std::string images;
    for (int image = 0; image < 10; ++image) {
      images += static_cast<char>(image);
      images += std::string(3072, static_cast<char>(20 * image + 5));
    }
    entries.push_back({std::string("cifar-10-batches-bin/") + name + ".bin", images, '0', ""});
  }
  write_archive(folder, "cifar-10-binary.tar.gz", entries);
}

void write_release(const fs::path& folder) {
  std::vector<TarEntry> entries;
  for (const std::string split : {"train", "val", "test"})
    entries.push_back({"lra_release/listops-1000/basic_" + split + ".tsv",
                       "Source\tTarget\n( ( ( [MAX 2 ) 7 ) ] )\t7\n( ( ( [MIN 4 ) 1 ) ] )\t1\n", '0', ""});
  for (const std::string split : {"train", "eval", "test"})
    entries.push_back({"lra_release/tsv_data/new_aan_pairs." + split + ".tsv",
                       "1.0\tA\tB\tfirst paper\tsecond paper\n0.0\tA\tC\tfirst paper\tthird paper\n", '0', ""});
  const fs::path drawn = folder / "drawn";
  tasks::pathfinder::write_images({.count = 20}, drawn);
  for (const auto& entry : fs::recursive_directory_iterator(drawn))
    if (entry.is_regular_file())
      entries.push_back({"lra_release/" + entry.path().lexically_relative(drawn).string(),
                         read_bytes(entry.path()), '0', ""});
  fs::remove_all(drawn);
  write_archive(folder, "lra_release.gz", entries);
}

void write_substitute(const fs::path& folder) {
  fs::create_directory(folder / "acl_pairs");
  std::string pairs;
  for (const std::string split : {"train", "dev", "test"})
    for (int pair = 0; pair < 10; ++pair) pairs += split + (pair % 2 == 0 ? "\t1\tP1\tP2\n" : "\t0\tP1\tP3\n");
  write_bytes(folder / "acl_pairs/acl_pairs.tsv", pairs);
  write_bytes(folder / "acl_pairs/acl_docs.tsv",
              "P1\tthe first paper\nP2\tthe second paper\nP3\tthe third paper\n");
}

}  // namespace

void write_published_data(const fs::path& folder) {
  write_reviews(folder);
  write_images(folder);
  write_release(folder);
  write_substitute(folder);
}

}  // namespace tern::test
