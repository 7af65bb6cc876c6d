// Files of every format that is read, damaged or hostile: read, or refused with what is wrong.
#include "support/mutation.h"

#include <cstring>

#include <gtest/gtest.h>

#include "io/archive.h"
#include "io/json.h"
#include "io/png.h"
#include "io/safetensors.h"
#include "io/source_files.h"
#include "io/table.h"
#include "support/tar.h"
#include "support/temporary_folder.h"

namespace tern::test {
namespace {

namespace fs = std::filesystem;

TEST(IoMutation, damaged_json_is_parsed_or_refused) {
  const std::string sound =
      R"({"kind": "train", "step": 10, "x": 2.25, "list": [1, -2, 3e4, "\u00e4 \"x\""], "deep": {"a": [[]]}})";
  const auto read = [](const std::string& text) { io::dump_json(io::parse_json(text, "x.json"), 2); };
  EXPECT_GT(feed(sound, Variation::bytes, 500, {ExitCode::bad_data}, read).refused, 200);
}

class TensorMutation : public testing::TestWithParam<Variation> {};

TEST_P(TensorMutation, changed_safetensors_are_read_or_refused) {
  const TemporaryFolder folder;
  const std::vector<float> weights(20, 1.5f);
  const std::vector<std::int64_t> steps{1, 2, 3};
  io::write_safetensors(
      folder / "x",
      std::vector<io::TensorRecord>{{"a.weight", DType::float32, {4, 5}, std::as_bytes(std::span(weights))},
                                    {"empty", DType::float64, {0, 7}, {}},
                                    {"steps", DType::int64, {3}, std::as_bytes(std::span(steps))}},
      {{"format", "tern"}});
  const std::string sound = read_bytes(folder / "x");
  std::uint64_t length = 0;
  std::memcpy(&length, sound.data(), sizeof length);
  const auto read = [&](const std::string& bytes) {
    write_bytes(folder / "y", bytes);
    const io::SafetensorsFile file(folder / "y");
    for (const io::TensorRecord& tensor : file.tensors())
      for (const std::byte byte : tensor.bytes) EXPECT_LE(static_cast<int>(byte), 255);
  };
  // A whole file, and a header whose length is told rightly.
  const auto read_header = [&](const std::string& header) {
    const std::uint64_t size = header.size();
    read(std::string(reinterpret_cast<const char*>(&size), sizeof size) + header + sound.substr(8 + length));
  };
  if (GetParam() == Variation::bytes) {
    EXPECT_GT(feed(sound, GetParam(), 150, {ExitCode::bad_data}, read).refused, 70);
  }
  EXPECT_GT(feed(sound.substr(8, length), GetParam(), 150, {ExitCode::bad_data}, read_header).refused, 70);
}
INSTANTIATE_TEST_SUITE_P(, TensorMutation, testing::Values(Variation::bytes, Variation::json),
                         [](const auto& info) { return info.param == Variation::json ? "values" : "bytes"; });

TEST(IoMutation, damaged_archives_are_read_or_refused) {
  if (!io::has_archive()) GTEST_SKIP() << "this build reads no archives";
  const TemporaryFolder folder;
  write_bytes(folder / "x.tar",
              tar_bytes({{"set/a.txt", std::string(700, 'a'), '0', ""}, {"set/b.txt", "line\n", '0', ""}}));
  shell(folder.path(),
        "gzip -k x.tar && xz -k x.tar && bzip2 -k x.tar; "
        "python3 -c \"import zipfile; z = zipfile.ZipFile('x.zip', 'w', zipfile.ZIP_DEFLATED); "
        "z.writestr('set/a.txt', 'a' * 700); z.writestr('set/b.txt', 'line'); z.close()\"");
  for (const char* name : {"x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2", "x.zip"}) {
    SCOPED_TRACE(name);
    feed(read_bytes(folder / name), Variation::bytes, 60, {ExitCode::bad_data}, [&](const std::string& bytes) {
      write_bytes(folder / name, bytes);
      io::SourceFiles source(folder / name);
      while (source.next()) source.read();
    });
  }
}

TEST(IoMutation, damaged_images_are_read_or_refused) {
  const TemporaryFolder folder;
  io::write_png(folder / "x.png", {8, 6, std::vector<std::uint8_t>(48, 77)});
  const Fed fed =
      feed(read_bytes(folder / "x.png"), Variation::bytes, 400, {ExitCode::bad_data},
           [](const std::string& bytes) { io::read_png(std::as_bytes(std::span(bytes)), "x.png"); });
  EXPECT_GT(fed.refused, 200);
}

TEST(IoMutation, damaged_tables_are_read_or_refused) {
  const TemporaryFolder folder;
  const std::string tsv = "label\ttext\ngood\tone\nbad\ttwo words\n\t\n",
                    json = "{\"label\": \"good\", \"text\": \"one\"}\n{\"label\": 1, \"text\": \"\\u00e4\"}\n";
  for (const auto format : {io::TableFormat::tsv, io::TableFormat::json_lines})
    feed(format == io::TableFormat::tsv ? tsv : json, Variation::bytes, 150, {ExitCode::bad_data},
         [&](const std::string& text) {
           write_bytes(folder / "x", text);
           io::TableReader reader("x", io::file_lines(folder / "x"), {format, {"label", "text"}, false});
           while (const auto row = reader.next()) EXPECT_EQ(row->fields.empty(), !row->fault.empty());
         });
}

}  // namespace
}  // namespace tern::test
