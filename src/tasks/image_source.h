// CIFAR-10 in grey as Long Range Arena's Image: 1,024 ids, row by row from the top left, each the value of a
// pixel.
//
// Sources: the binary release (cifar-10-binary.tar.gz or its folder): data_batch_{1...5}.bin and
// test_batch.bin, records of a label and 3 x 1,024 bytes red, green, blue; or images that are grey already:
// *gray_train*.bin and *gray_test*.bin, records of a label and 1,024 bytes.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "tasks/prepared_data.h"
#include "tasks/sources.h"

namespace tern::tasks {

inline constexpr int image_classes = 10;
inline constexpr int image_pixels = 1024;
inline constexpr int image_vocabulary = 256;

/// As TensorFlow turns uint8 colours into grey: floor(255.5 * (0.2989 R + 0.5870 G + 0.1140 B) / 255) in
/// float32.
std::uint8_t grey_of(std::uint8_t red, std::uint8_t green, std::uint8_t blue);

Sources image_sources(std::vector<std::filesystem::path> paths);

data::RecordHeader image_header();

/// Writes the splits in the order of the sources' images (batches by number): the last tenth of the training
/// images is dev. Damaged items: images with an impossible label, and a file's end that is no whole image.
/// Error(bad_data) where a split has no images or a file comes twice.
void prepare_image(const Sources& sources, Preparation& preparation);

}  // namespace tern::tasks
