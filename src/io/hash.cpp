#include "io/hash.h"

#define XXH_INLINE_ALL
#include <algorithm>
#include <cstring>

#include <xxhash.h>

#include "io/mapped_file.h"

namespace tern::io {

std::array<std::byte, 16> to_bytes(Hash128 hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, {hash.low, hash.high});
  std::array<std::byte, 16> bytes;
  std::memcpy(bytes.data(), canonical.digest, bytes.size());
  return bytes;
}

Hash128 hash_from_bytes(std::span<const std::byte, 16> bytes) {
  XXH128_canonical_t canonical;
  std::memcpy(canonical.digest, bytes.data(), bytes.size());
  const XXH128_hash_t hash = XXH128_hashFromCanonical(&canonical);
  return {hash.low64, hash.high64};
}

std::string to_hex(Hash128 hash) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : to_bytes(hash)) {
    text += digits[std::to_integer<std::size_t>(byte >> 4)];
    text += digits[std::to_integer<std::size_t>(byte & std::byte{15})];
  }
  return text;
}

Hash128 hash_of(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

Hash128 hash_of_file(const std::filesystem::path& path) { return hash_of(MappedFile(path).bytes()); }

struct Hasher::State {
  XXH3_state_t state;
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->state); }
Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->state, bytes.data(), bytes.size());
}

Hash128 Hasher::digest() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->state);
  return {hash.low64, hash.high64};
}

}  // namespace tern::io
