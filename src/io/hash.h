// XXH3-128 fingerprints of memory and files. They detect damage, not malice.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace tern::io {

struct Hash128 {
  std::uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
};

/// 32 lower-case hex digits, high half first (what `xxhsum -H2` prints).
std::string to_hex(Hash128 hash);

/// The bytes behind to_hex(), and back.
std::array<std::byte, 16> to_bytes(Hash128 hash);
Hash128 hash_from_bytes(std::span<const std::byte, 16> bytes);

Hash128 hash_of(std::span<const std::byte> bytes);

/// Error(missing_input) if the file cannot be read.
Hash128 hash_of_file(const std::filesystem::path& path);

/// Hash of the concatenation of all pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  void update(std::span<const std::byte> bytes);
  Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tern::io
