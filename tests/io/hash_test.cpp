#include "io/hash.h"

#include <string>

#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(hash, equals_the_published_values) {
  // xxhash's own test vector for no input, and `xxhsum -H2` for the other.
  EXPECT_EQ(to_hex(hash_of({})), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(to_hex(hash_of(bytes_of("a"))), "a96faf705af16834e6c632b61e964e1f");
}

TEST(hash, streaming_files_and_bytes_agree) {
  std::string text;
  for (int i = 0; i < 10000; ++i) text += std::to_string(i * i);
  const Hash128 whole = hash_of(bytes_of(text));
  for (const std::size_t step : {std::size_t{1}, std::size_t{7}, std::size_t{256}, std::size_t{5000}}) {
    Hasher hasher;
    for (std::size_t at = 0; at < text.size(); at += step) {
      hasher.update(bytes_of(std::string_view(text).substr(at, step)));
    }
    EXPECT_EQ(hasher.digest(), whole);
  }
  test::TemporaryFolder folder;
  test::write_bytes(folder / "x", text);
  EXPECT_EQ(hash_of_file(folder / "x"), whole);
  EXPECT_EQ(hash_from_bytes(to_bytes(whole)), whole);
  EXPECT_NE(hash_of(bytes_of(text.substr(1))), whole);
  EXPECT_EQ(test::thrown_error([&] { hash_of_file(folder / "y"); }).code(), ExitCode::missing_input);
}

}  // namespace
}  // namespace tern::io
