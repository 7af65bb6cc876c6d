#include "support/mutation.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/json.h"

namespace tern::test {
namespace {

using namespace std::string_literals;

const std::array numbers{"-1"s,
                         "0"s,
                         "00"s,
                         "1e999"s,
                         "-1e308"s,
                         "1e-320"s,
                         "nan"s,
                         "-inf"s,
                         "2147483648"s,
                         "4294967296"s,
                         "9223372036854775807"s,
                         "-9223372036854775808"s,
                         "18446744073709551615"s,
                         "18446744073709551616"s,
                         "99999999999999999999999999999999999999999"s,
                         "0x7fffffffffffffff"s,
                         "1.5"s};
const std::array openings{"["s, "{"s, "("s, "{\"a\":"s, "- "s, "{a: "s, "[MAX "s, "<"s, "\""s, "*a"s};
const std::array texts{std::string(64, '\0'),
                       "\0"s,
                       "\xFF\xFE"s,
                       "\xC0\x80"s,
                       "\xED\xA0\x80"s,
                       "\xF4\x90\x80\x80"s,
                       "\xEF\xBB\xBF"s,
                       "\xE2\x80\xAE"s,
                       "\r"s,
                       "\r\n"s,
                       "\n\n"s,
                       "\t"s,
                       "%s%n{}"s,
                       "../../x"s,
                       "&a [*a]"s,
                       "!!binary x"s,
                       "\n---\n"s,
                       "\n...\n"s};
constexpr std::string_view marks("\0\x01\x7F\x80\xFF\n\r\t\"'{}[]():,-#&*!|>%\\ 09", 28);

const io::Json& hostile_values() {
  static const io::Json values = [] {
    io::Json deep = 1;
    for (int level = 0; level < 50; ++level) deep = io::Json::array({std::move(deep)});
    return io::Json{nullptr,
                    true,
                    0,
                    -1,
                    2147483648,
                    INT64_MIN,
                    INT64_MAX,
                    UINT64_MAX,
                    1e308,
                    -1e308,
                    1e-320,
                    0.5,
                    "",
                    "x",
                    "-",
                    "0",
                    "1e999",
                    "99999999999999999999",
                    "../../x",
                    "\x01\xE2\x80\xAE",
                    std::string(70000, 'x'),
                    io::Json::array(),
                    io::Json::object(),
                    io::Json::array({1, "x", nullptr}),
                    {{"x", 1}},
                    std::move(deep)};
  }();
  return values;
}

/// Every container of a tree that holds something.
void collect(io::Json& value, std::vector<io::Json*>& containers) {
  if (!value.is_structured() || value.empty()) return;
  containers.push_back(&value);
  for (io::Json& member : value) collect(member, containers);
}

// Sanitizers take several times as much of both.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr rlim_t memory_limit = RLIM_INFINITY;
constexpr double time_limit = 20;
#else
constexpr rlim_t memory_limit = rlim_t{256} << 20;
constexpr double time_limit = 1;
#endif

/// TERN_MUTATIONS=20 tries twenty times as many variants.
int scale() {
  const char* text = std::getenv("TERN_MUTATIONS");
  return text == nullptr ? 1 : std::max(1, std::atoi(text));
}

/// Lets the process have no more than memory_limit beyond what it has, while this lives.
class MemoryLimit {
 public:
  MemoryLimit() {
    ::getrlimit(RLIMIT_AS, &before_);
    if (memory_limit == RLIM_INFINITY) return;
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t limit = pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + memory_limit;
    const rlimit lower{std::min(limit, before_.rlim_cur), before_.rlim_max};
    ::setrlimit(RLIMIT_AS, &lower);
  }
  ~MemoryLimit() { ::setrlimit(RLIMIT_AS, &before_); }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit before_{};
};

double processor_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

std::size_t Mutator::below(std::size_t count) {
  const PhiloxWords words = philox({{draws_++, 0, 0, 0}}, key_);
  const std::uint64_t draw = std::uint64_t{words.word[0]} << 32 | words.word[1];
  return count == 0 ? 0 : static_cast<std::size_t>(draw % count);
}

std::string Mutator::hostile_text() {
  switch (below(4)) {
    case 0:
      return one_of(numbers);
    case 1: {  // nesting far beyond every limit
      const std::string opening = one_of(openings);
      std::string text;
      for (std::size_t level = 0, levels = std::size_t{10} << below(14); level < levels; ++level)
        text += opening;
      return text;
    }
    case 2:
      return std::string(std::size_t{1000} << below(11), one_of("x0 ,\""s));
    default:
      return one_of(texts);
  }
}

void Mutator::change_bytes(std::string& bytes) {
  const std::size_t at = below(bytes.size());
  switch (below(3)) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
      return;
    case 1:
      bytes[at] = one_of(marks);
      return;
    default: {  // a number of a binary format
      const std::array<std::uint64_t, 8> values{
          0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, INT64_MAX, std::uint64_t{1} << 63, UINT64_MAX};
      const std::uint64_t value = one_of(values);
      const std::size_t size = std::min(bytes.size() - at, std::size_t{4} << below(2));
      std::memcpy(bytes.data() + at, &value, size);
    }
  }
}

void Mutator::change_range(std::string& bytes) {
  const std::size_t at = below(bytes.size()), size = 1 + below(std::min<std::size_t>(bytes.size() - at, 600));
  switch (below(4)) {
    case 0:
      bytes.resize(at);
      return;
    case 1:
      bytes.erase(at, size);
      return;
    case 2: {
      const std::string range = bytes.substr(at, size);
      for (std::size_t time = 0, times = 1 + below(8); time < times; ++time) bytes.insert(at, range);
      return;
    }
    default: {
      const std::string range = bytes.substr(at, size);
      bytes.replace(below(bytes.size()), size, range);
    }
  }
}

void Mutator::change_line(std::string& bytes) {
  const std::size_t at = below(bytes.size()), before = bytes.rfind('\n', at);
  const std::size_t begin = before == bytes.npos || before == at ? at : before + 1;
  const std::size_t end = std::min(bytes.find('\n', at), bytes.size() - 1) + 1;
  if (begin >= end) return;
  const std::string line = bytes.substr(begin, end - begin);
  if (below(2) == 0)
    bytes.erase(begin, end - begin);
  else
    bytes.insert(below(2) == 0 ? begin : below(bytes.size()), line);
}

void Mutator::change_number(std::string& bytes) {
  constexpr std::string_view digits = "0123456789";
  const std::size_t begin = bytes.find_first_of(digits, below(bytes.size()));
  if (begin == bytes.npos) return;
  const std::size_t end = std::min(bytes.find_first_not_of(digits, begin), bytes.size());
  bytes.replace(begin, end - begin, one_of(numbers));
}

std::string Mutator::damaged(std::string bytes) {
  for (std::size_t fault = 0, faults = 1 + below(3); fault < faults && !bytes.empty(); ++fault) {
    switch (below(5)) {
      case 0:
        change_bytes(bytes);
        break;
      case 1:
        change_range(bytes);
        break;
      case 2:
        change_line(bytes);
        break;
      case 3:
        change_number(bytes);
        break;
      default:
        bytes.insert(below(bytes.size() + 1), hostile_text());
    }
  }
  return bytes;
}

std::string Mutator::changed_json(std::string_view text) {
  io::Json root = io::parse_json(text, "text to change");
  std::vector<io::Json*> containers;
  collect(root, containers);
  if (containers.empty()) return damaged(std::string(text));
  io::Json& container = *one_of(containers);
  const std::size_t at = below(container.size());
  auto member = container.begin();
  std::advance(member, at);
  switch (below(4)) {
    case 0:
      container.erase(member);
      break;
    case 1: {  // another part of the same tree
      const io::Json other = *one_of(containers);
      *member = other;
      break;
    }
    case 2:
      if (container.is_array()) {
        const io::Json item = *member;
        for (std::size_t time = 0, times = std::size_t{1} << below(10); time < times; ++time)
          container.push_back(item);
        break;
      }
      [[fallthrough]];
    default:
      *member = one_of(hostile_values());
  }
  return io::dump_json(root, below(2) == 0 ? 1 : -1);
}

Fed feed(const std::string& sound, Variation variation, int count, std::initializer_list<ExitCode> codes,
         const std::function<void(const std::string&)>& read) {
  Fed fed;
  for (int seed = 0; seed < count * scale(); ++seed) {
    Mutator mutator(static_cast<std::uint32_t>(seed));
    const std::string input =
        variation == Variation::json ? mutator.changed_json(sound) : mutator.damaged(sound);
    if (input == sound) continue;  // one range took the place of its like
    SCOPED_TRACE(format_text("variant {} of {} bytes", seed, input.size()));
    const double start = processor_seconds();
    try {
      const MemoryLimit limit;
      read(input);
      ++fed.accepted;
    } catch (const Error& error) {
      ++fed.refused;
      EXPECT_TRUE(std::count(codes.begin(), codes.end(), error.code()) > 0)
          << "exit code " << static_cast<int>(error.code()) << ": " << error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "must be a tern::Error, got: " << error.what();
    }
    EXPECT_LT(processor_seconds() - start, time_limit);
  }
  return fed;
}

}  // namespace tern::test
