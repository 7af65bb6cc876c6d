// Record files that are damaged or hostile, with checksums that tell and with checksums made to fit.
#include "support/mutation.h"

#include <cstring>

#include <gtest/gtest.h>

#include "data/record_example.h"
#include "io/hash.h"
#include "support/temporary_folder.h"

namespace tern::test {
namespace {

/// All that a reader gets from a file.
void read_all(const std::filesystem::path& path) {
  const data::RecordFile file(path);
  file.verify();
  for (std::int64_t record = 0; record < file.count(); ++record) {
    if (file.header().label_kind == data::LabelKind::classes)
      file.label(record);
    else
      file.target(record);
    for (int which = 0; which < file.header().sequences_per_record; ++which)
      to_sequence(file.tokens(record, which));
  }
}

TEST(RecordMutation, damaged_files_are_refused) {
  const TemporaryFolder folder;
  for (const int sequences : {1, 2}) {
    write_example(folder / "x.records", 30, example_header(sequences, DType::uint16));
    const Fed fed = feed(read_bytes(folder / "x.records"), Variation::bytes, 120, {ExitCode::bad_data},
                         [&](const std::string& bytes) {
                           write_bytes(folder / "x.records", bytes);
                           read_all(folder / "x.records");
                         });
    EXPECT_EQ(fed.accepted, 0);
  }
}

/// The same bytes with the checksum of the first section made to fit, as a forger would leave it.
std::string with_front_hash(std::string bytes) {
  constexpr std::size_t front = 4096, trailer = 64;
  if (bytes.size() < front + trailer) return bytes;
  const io::Hash128 hash = io::hash_of(std::as_bytes(std::span(bytes).first(front)));
  const auto written = io::to_bytes(hash);
  std::memcpy(bytes.data() + bytes.size() - trailer, written.data(), written.size());
  return bytes;
}

TEST(RecordMutation, hostile_headers_are_refused_though_their_checksum_fits) {
  const TemporaryFolder folder;
  write_example(folder / "x.records", 30, example_header());
  const std::string sound = read_bytes(folder / "x.records");
  std::uint32_t length = 0;
  std::memcpy(&length, sound.data() + 12, sizeof length);
  const auto read = [&](const std::string& text) {
    std::string bytes = sound;
    const auto size = static_cast<std::uint32_t>(text.size());
    if (size > 4000) return;  // the other sections would move
    std::memcpy(bytes.data() + 12, &size, sizeof size);
    bytes.replace(16, 4080, text + std::string(4080 - size, '\0'));
    write_bytes(folder / "x.records", with_front_hash(bytes));
    read_all(folder / "x.records");
  };
  const std::string header = sound.substr(16, length);
  EXPECT_NO_THROW(read(header)) << "the sound header passes";
  EXPECT_GT(feed(header, Variation::json, 200, {ExitCode::bad_data}, read).refused, 50);
  EXPECT_GT(feed(header, Variation::bytes, 200, {ExitCode::bad_data}, read).refused, 50);
}

}  // namespace
}  // namespace tern::test
