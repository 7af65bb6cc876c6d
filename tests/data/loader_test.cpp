#include "data/loader.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "data/record_example.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::data {
namespace {

using namespace tern::test;

std::shared_ptr<const RecordFile> example_file(const TemporaryFolder& folder, std::int64_t records,
                                               const RecordHeader& header = example_header()) {
  write_example(folder / "x", records, header);
  return std::make_shared<const RecordFile>(folder / "x");
}

bool equal(const Batch& a, const Batch& b) {
  return a.records > 0 && a.tokens == b.tokens && a.position == b.position && a.offsets == b.offsets &&
         a.sample == b.sample && a.labels == b.labels && a.targets == b.targets && a.records == b.records &&
         a.longest == b.longest && a.padded_length == b.padded_length;
}

/// Checks every field of a batch against the records that it claims to hold.
void expect_faithful(const Batch& batch, const RecordHeader& header, std::int64_t max_length, bool mask_zero) {
  const int per_record = header.sequences_per_record;
  ASSERT_EQ(batch.sequences(), batch.records * per_record);
  ASSERT_EQ(batch.offsets.size(), batch.sample.size() + 1);
  ASSERT_EQ(batch.tokens.size(), batch.position.size());
  ASSERT_EQ(batch.offsets.back(), static_cast<std::int32_t>(batch.tokens.size()));
  Sequence tokens, position;
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < batch.sequences(); ++s) {
    const std::int64_t coordinate = batch.sample[static_cast<std::size_t>(s)];
    const std::int64_t record = coordinate / per_record;
    ASSERT_EQ(coordinate % per_record, s / batch.records) << "all first sequences stand before all second ones";
    if (header.label_kind == LabelKind::classes) {
      ASSERT_EQ(batch.labels.at(static_cast<std::size_t>(s % batch.records)), record % 7);
    } else {
      ASSERT_EQ(batch.targets.at(static_cast<std::size_t>(s % batch.records)), static_cast<float>(record) / 4);
    }
    ASSERT_EQ(batch.offsets[static_cast<std::size_t>(s)], static_cast<std::int32_t>(tokens.size()));
    const Sequence ids =
        example_sequence(record, static_cast<int>(coordinate % per_record), header.vocabulary, 40);
    const std::size_t before = tokens.size();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const bool absent =
          (mask_zero && ids[i] == 0) || (max_length > 0 && static_cast<std::int64_t>(i) >= max_length);
      if (absent) continue;
      tokens.push_back(ids[i]);
      position.push_back(static_cast<std::int32_t>(i));
    }
    longest = std::max(longest, static_cast<std::int64_t>(tokens.size() - before));
  }
  EXPECT_EQ(batch.tokens, tokens);
  EXPECT_EQ(batch.position, position);
  EXPECT_EQ(batch.longest, longest);
}

TEST(shuffled_order, is_a_permutation_that_depends_on_seed_and_epoch) {
  for (const std::int64_t count : {1, 2, 3, 17, 1000}) {
    std::vector<std::int64_t> order = shuffled_order(count, 3, 5);
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(order, all);
  }
  EXPECT_EQ(shuffled_order(1000, 3, 5), shuffled_order(1000, 3, 5));
  EXPECT_NE(shuffled_order(1000, 3, 5), shuffled_order(1000, 3, 6));
  EXPECT_NE(shuffled_order(1000, 3, 5), shuffled_order(1000, 4, 5));
  EXPECT_TRUE(shuffled_order(0, 3, 5).empty());
}

TEST(shuffled_order, takes_all_orders_equally_often) {
  std::map<std::vector<std::int64_t>, int> times;
  constexpr int draws = 24000;
  for (std::uint32_t epoch = 0; epoch < draws; ++epoch) ++times[shuffled_order(4, 11, epoch)];
  ASSERT_EQ(times.size(), 24u);
  double chi_square = 0;  // 23 degrees of freedom: above 49.7 once in 1000
  for (const auto& [order, count] : times) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 49.7);
}

TEST(train_loader, each_record_comes_once_an_epoch_though_batches_cross_its_end) {
  TemporaryFolder folder;
  TrainLoader loader(example_file(folder, 101), {.batch_size = 8, .seed = 9});
  std::vector<std::int64_t> stream;
  while (stream.size() < 3 * 101) {
    EXPECT_EQ(loader.position(), static_cast<std::int64_t>(stream.size()));
    EXPECT_EQ(loader.epoch(), static_cast<std::int64_t>(stream.size()) / 101);
    const Batch batch = loader.next();
    ASSERT_EQ(batch.records, 8);
    stream.insert(stream.end(), batch.sample.begin(), batch.sample.end());
  }
  for (std::uint32_t epoch = 0; epoch < 3; ++epoch) {
    const auto begin = stream.begin() + 101 * epoch;
    EXPECT_EQ(std::vector<std::int64_t>(begin, begin + 101), shuffled_order(101, 9, epoch));
  }
}

void expect_faithful_batches(const RecordHeader& header) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 30, header);
  for (const std::int64_t max_length : {0, 1, 13, 100}) {
    for (const bool mask_zero : {true, false}) {
      TrainLoader loader(file, {.batch_size = 7, .max_length = max_length, .mask_zero = mask_zero});
      for (int i = 0; i < 6; ++i) expect_faithful(loader.next(), header, max_length, mask_zero);
    }
  }
}

TEST(train_loader, batches_hold_what_the_records_hold) {
  for (const DType type : {DType::uint8, DType::uint16, DType::int32}) {
    expect_faithful_batches(example_header(1, type, LabelKind::classes));
    expect_faithful_batches(example_header(2, type, LabelKind::target));
  }
}

TEST(train_loader, masked_ids_are_absent_and_positions_stay_original) {
  TemporaryFolder folder;
  RecordWriter writer(folder / "y", example_header());
  const std::vector<std::uint8_t> ids{0, 5, 0, 0, 7, 8, 0}, zeros{0, 0};
  writer.append(ids, 2);
  writer.append(zeros, 3);
  writer.finish();
  EvalLoader loader(std::make_shared<const RecordFile>(folder / "y"), {.batch_size = 4, .max_length = 5});
  const Batch batch = loader.next().value();
  EXPECT_EQ(batch.tokens, (Sequence{5, 7}));
  EXPECT_EQ(batch.position, (Sequence{1, 4}));
  EXPECT_EQ(batch.offsets, (Sequence{0, 2, 2}));
  EXPECT_EQ(batch.labels, (Sequence{2, 3}));
  EXPECT_EQ(batch.longest, 2);
  EXPECT_EQ(batch.padded_length, 64);
}

TEST(train_loader, prefetching_changes_nothing) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 50);
  std::vector<Batch> expected;
  TrainLoader plain(file, {.batch_size = 6, .seed = 1, .prefetch = 0});
  for (int i = 0; i < 40; ++i) expected.push_back(plain.next());
  for (const int prefetch : {1, 2, 16}) {
    TrainLoader loader(file, {.batch_size = 6, .seed = 1, .prefetch = prefetch});
    for (const Batch& batch : expected) ASSERT_TRUE(equal(loader.next(), batch)) << prefetch;
  }
}

TEST(train_loader, goes_on_from_any_position) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 37);
  std::uint64_t state = 5;
  for (int cut = 0; cut < 30; ++cut) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto steps = static_cast<std::int64_t>((state >> 33) % 40);
    LoaderOptions options{.batch_size = 5, .seed = 2, .prefetch = cut % 3};
    TrainLoader whole(file, options), parts(file, options);
    for (std::int64_t i = 0; i < steps; ++i) whole.next();
    parts.next();
    parts.restore(whole.position());
    EXPECT_EQ(parts.position(), 5 * steps);
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(equal(parts.next(), whole.next()));
  }
  TrainLoader odd(file, {.batch_size = 5, .seed = 2});
  odd.restore(36);
  const Batch batch = odd.next();
  EXPECT_EQ(batch.sample[0], shuffled_order(37, 2, 0)[36]);
  EXPECT_EQ(batch.sample[1], shuffled_order(37, 2, 1)[0]);
}

TEST(train_loader, ranks_divide_each_batch) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 23);
  for (const int ranks : {1, 2, 3, 6}) {
    TrainLoader whole(file, {.batch_size = 6});
    std::vector<std::unique_ptr<TrainLoader>> parts;
    for (int rank = 0; rank < ranks; ++rank) {
      parts.push_back(std::make_unique<TrainLoader>(
          file, LoaderOptions{.batch_size = 6, .rank = rank, .world_size = ranks, .prefetch = 1}));
    }
    for (int step = 0; step < 20; ++step) {
      std::vector<std::int64_t> together;
      for (const auto& part : parts) {
        const Batch batch = part->next();
        ASSERT_EQ(batch.records, 6 / ranks);
        together.insert(together.end(), batch.sample.begin(), batch.sample.end());
      }
      ASSERT_EQ(together, whole.next().sample);
      ASSERT_EQ(parts.back()->position(), whole.position());
    }
  }
}

TEST(train_loader, closing_at_any_moment_is_clean) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 37);
  for (int i = 0; i < 200; ++i) {
    TrainLoader loader(file, {.batch_size = 4, .prefetch = 1 + i % 4});
    for (int taken = 0; taken < i % 3; ++taken) loader.next();
    if (i % 5 == 0) loader.restore(3);
  }
}

/// A file with an id that its vocabulary does not have, at one place.
std::shared_ptr<const RecordFile> damaged_file(const TemporaryFolder& folder) {
  write_example(folder / "x", 40, example_header());
  std::string bytes = read_bytes(folder / "x");
  bytes[4096 + 300] = '\xff';
  write_bytes(folder / "x", bytes);
  return std::make_shared<const RecordFile>(folder / "x");
}

TEST(train_loader, damage_is_told_at_opening_or_by_the_batch_that_meets_it) {
  TemporaryFolder folder;
  const auto file = damaged_file(folder);
  const Error at_opening = thrown_error([&] { TrainLoader(file, {.batch_size = 4}); });
  EXPECT_EQ(at_opening.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(at_opening, "tokens section"));
  for (const int prefetch : {0, 1, 4}) {
    TrainLoader loader(file, {.batch_size = 4, .verify = false, .prefetch = prefetch});
    int before = 0;
    const Error error = thrown_error([&] {
      for (;; ++before) loader.next();
    });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "ids of record")) << error.what();
    EXPECT_LT(before, 10);
    EXPECT_EQ(loader.position(), 4 * before);
    EXPECT_THROW(loader.next(), Error);
  }
}

TEST(train_loader, options_are_checked) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 5);
  const auto refused = [&](const LoaderOptions& options) {
    EXPECT_EQ(thrown_error([&] { TrainLoader(file, options); }).code(), ExitCode::failed);
    EXPECT_EQ(thrown_error([&] { EvalLoader(file, options); }).code(), ExitCode::failed);
  };
  refused({.batch_size = 0});
  refused({.batch_size = 5, .world_size = 2});
  refused({.batch_size = 4, .rank = 2, .world_size = 2});
  refused({.batch_size = 4, .rank = -1, .world_size = 2});
  refused({.batch_size = 4, .max_length = -1});
  refused({.batch_size = 4, .prefetch = -1});
  TrainLoader loader(file, {});
  EXPECT_EQ(thrown_error([&] { loader.restore(-1); }).code(), ExitCode::failed);
  write_example(folder / "none", 0, example_header());
  const auto none = std::make_shared<const RecordFile>(folder / "none");
  EXPECT_EQ(thrown_error([&] { TrainLoader(none, {}); }).code(), ExitCode::failed);
}

TEST(eval_loader, passes_once_in_order_and_keeps_the_last_batch) {
  TemporaryFolder folder;
  const RecordHeader header = example_header(2);
  const auto file = example_file(folder, 23, header);
  for (const int prefetch : {0, 1, 4}) {
    EvalLoader loader(file, {.batch_size = 10, .padded_length = 128, .prefetch = prefetch});
    EXPECT_EQ(loader.batches(), 3);
    for (int pass = 0; pass < 2; ++pass) {
      std::vector<std::int64_t> records, sizes;
      while (const std::optional<Batch> batch = loader.next()) {
        expect_faithful(*batch, header, 0, true);
        EXPECT_EQ(batch->padded_length, 128);
        sizes.push_back(batch->records);
        for (std::int64_t i = 0; i < batch->records; ++i) {
          records.push_back(batch->sample[static_cast<std::size_t>(i)] / 2);
        }
      }
      EXPECT_EQ(sizes, (std::vector<std::int64_t>{10, 10, 3}));
      std::vector<std::int64_t> all(23);
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(records, all);
      EXPECT_FALSE(loader.next().has_value());
      loader.reset();
    }
  }
}

TEST(eval_loader, damage_is_told_by_the_batch_that_meets_it) {
  TemporaryFolder folder;
  const auto file = damaged_file(folder);
  std::optional<int> passed;
  for (const int prefetch : {0, 1, 4}) {
    EvalLoader loader(file, {.batch_size = 4, .verify = false, .prefetch = prefetch});
    int before = 0;
    const Error error = thrown_error([&] {
      for (; loader.next(); ++before) {}
    });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "ids of record")) << error.what();
    EXPECT_EQ(before, passed.value_or(before)) << prefetch;
    passed = before;
  }
}

TEST(eval_loader, ranks_see_every_record_once) {
  TemporaryFolder folder;
  const auto file = example_file(folder, 21);
  std::vector<std::int64_t> seen;
  for (int rank = 0; rank < 4; ++rank) {
    EvalLoader loader(file, {.batch_size = 4, .rank = rank, .world_size = 4});
    std::int64_t batches = 0;
    while (const std::optional<Batch> batch = loader.next()) {
      seen.insert(seen.end(), batch->sample.begin(), batch->sample.end());
      ++batches;
    }
    EXPECT_EQ(batches, 6);
  }
  std::sort(seen.begin(), seen.end());
  std::vector<std::int64_t> all(21);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(seen, all);
}

}  // namespace
}  // namespace tern::data
