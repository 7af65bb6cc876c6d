// Archives for tests: tar written by its format (POSIX ustar), compressed by the system's programs.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/temporary_folder.h"

namespace tern::test {

struct TarEntry {
  std::string name, content;
  char type = '0';  ///< '0' file, '1' hard link, '2' symbolic link, '3' device, '5' folder
  std::string target;
};

inline std::string tar_entry(const TarEntry& entry) {
  std::string head(512, '\0');
  const auto put = [&](std::size_t at, std::string_view text) { head.replace(at, text.size(), text); };
  const auto octal = [](std::size_t value, int digits) {
    char text[24];
    std::snprintf(text, sizeof text, "%0*zo", digits, value);
    return std::string(text);
  };
  put(0, entry.name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, octal(entry.content.size(), 11));
  put(136, "00000000000");
  put(148, "        ");
  head[156] = entry.type;
  put(157, entry.target);
  put(257, "ustar");
  put(263, "00");
  std::size_t sum = 0;
  for (const char c : head) sum += static_cast<unsigned char>(c);
  put(148, octal(sum, 6) + '\0');
  const std::size_t gap = (512 - entry.content.size() % 512) % 512;
  return head + entry.content + std::string(gap, '\0');
}

inline std::string tar_bytes(const std::vector<TarEntry>& entries) {
  std::string bytes;
  for (const TarEntry& entry : entries) bytes += tar_entry(entry);
  return bytes + std::string(1024, '\0');
}

/// Runs a shell command in the folder; what it prints is lost.
inline void shell(const std::filesystem::path& folder, const std::string& command) {
  const std::string line = "cd '" + folder.string() + "' && { " + command + "; } >/dev/null 2>&1";
  if (std::system(line.c_str()) != 0) throw std::runtime_error(command + " failed");
}

}  // namespace tern::test
