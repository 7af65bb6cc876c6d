#include "tasks/image_source.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>

#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr std::int64_t published_train = 50000, published_test = 10000;
constexpr std::int64_t file_cap = std::int64_t{1} << 28;
constexpr std::string_view first_batch = "data_batch_1.bin", test_batch = "test_batch.bin";

struct ImageFile {
  bool is_known = false, is_test = false, is_grey = false;
};

ImageFile image_file(std::string_view path) {
  const std::string_view name = base_name(path);
  if (name == test_batch) return {true, true, false};
  if (name.size() == first_batch.size() && name.starts_with("data_batch_") && name.ends_with(".bin") &&
      name[11] >= '1' && name[11] <= '5')
    return {true, false, false};
  if (!name.ends_with(".bin") || name.starts_with(".")) return {};
  for (const bool is_test : {false, true})
    if (name.find(is_test ? "gray_test" : "gray_train") != name.npos) return {true, is_test, true};
  return {};
}

/// The files' bytes by their names, so that batches come in the order of their numbers.
using Files = std::map<std::string, std::string, std::less<>>;

class Images {
 public:
  Images(const Sources& sources, Preparation& preparation) : preparation_(preparation) {
    for_each_file(sources, [&](io::SourceFiles& file) { read(file); });
    for (const Files* files : {&train_, &test_})
      if (count(*files) == 0)
        throw_error(ExitCode::bad_data, "{}: no images of the split {} are in it; name further sources",
                    to_text(sources.paths), files == &test_ ? "test" : "train");
    warn_if_incomplete("train", count(train_), published_train);
    warn_if_incomplete("test", count(test_), published_test);
  }

  void write() {
    const std::int64_t train = count(train_), kept = train - train / 10;
    write("train", train_, 0, kept);
    write("dev", train_, kept, train);
    write("test", test_, 0, count(test_));
  }

 private:
  void read(io::SourceFiles& file) {
    const std::string name(base_name(file.name()));
    const ImageFile kind = image_file(name);
    std::string bytes = file.read(file_cap);
    if (const std::size_t rest = bytes.size() % record_bytes(name); rest != 0)
      preparation_.skip(
          {kind.is_test ? "test" : "train", name, format_text("{} bytes at its end are no image", rest)});
    if (!(kind.is_test ? test_ : train_).try_emplace(name, std::move(bytes)).second)
      throw_error(ExitCode::bad_data, "{}: the file comes twice; name each source once", file.where());
    for (const Files* files : {&train_, &test_})
      for (const auto& [other, unused] : *files)
        if (image_file(other).is_grey != kind.is_grey)
          throw_error(ExitCode::bad_data,
                      "{} and {}: must be of one kind, got colour and grey images; name one source", other,
                      name);
  }

  static std::size_t record_bytes(std::string_view name) {
    return 1 + std::size_t{image_pixels} * (image_file(name).is_grey ? 1 : 3);
  }
  static std::int64_t count(const Files& files) {
    std::size_t images = 0;
    for (const auto& [name, bytes] : files) images += bytes.size() / record_bytes(name);
    return static_cast<std::int64_t>(images);
  }

  /// Images [begin, end) of the files taken together.
  void write(std::string_view split, const Files& files, std::int64_t begin, std::int64_t end) {
    if (!preparation_.wants(split)) return;
    std::int64_t first = 0;  // image of the file at hand
    for (const auto& [name, bytes] : files) {
      const std::size_t size = record_bytes(name);
      const auto images = static_cast<std::int64_t>(bytes.size() / size);
      for (std::int64_t i = std::max(begin - first, std::int64_t{0}); i < std::min(end - first, images); ++i)
        write_image(split, name, i, std::string_view(bytes).substr(static_cast<std::size_t>(i) * size, size));
      first += images;
    }
    preparation_.finish(split);
  }

  void write_image(std::string_view split, const std::string& name, std::int64_t image,
                   std::string_view record) {
    const auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(record[at]); };
    if (byte(0) >= image_classes)
      return preparation_.skip({std::string(split), format_text("{}: image {}", name, image),
                                format_text("the label must lie in 0 ... 9, got {}", int{byte(0)})});
    std::array<std::uint8_t, image_pixels> pixels;
    for (std::size_t i = 0; i < pixels.size(); ++i)
      pixels[i] = record.size() == 1 + pixels.size()
                      ? byte(1 + i)
                      : grey_of(byte(1 + i), byte(1 + i + pixels.size()), byte(1 + i + 2 * pixels.size()));
    preparation_.writer(split).append(std::span<const std::uint8_t>(pixels), std::int32_t{byte(0)});
  }

  Preparation& preparation_;
  Files train_, test_;
};

}  // namespace

std::uint8_t grey_of(std::uint8_t red, std::uint8_t green, std::uint8_t blue) {
  constexpr float scale = 1.0F / 255;
  const float grey = static_cast<float>(red) * scale * 0.2989F + static_cast<float>(green) * scale * 0.5870F +
                     static_cast<float>(blue) * scale * 0.1140F;
  return static_cast<std::uint8_t>(grey * 255.5F);
}

Sources image_sources(std::vector<std::filesystem::path> paths) {
  return {std::move(paths), [](std::string_view name) { return image_file(name).is_known; },
          "data_batch_{1...5}.bin and test_batch.bin, or *gray_train*.bin and *gray_test*.bin"};
}

data::RecordHeader image_header() {
  data::RecordHeader header;
  header.task = "image";
  header.vocabulary = image_vocabulary;
  header.classes = image_classes;
  header.padded_length = image_pixels;
  return header;
}

void prepare_image(const Sources& sources, Preparation& preparation) {
  Images(sources, preparation).write();
  preparation.complete();
}

}  // namespace tern::tasks
