#include <algorithm>
#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// Exact attention over a fixed set of blocks: neighbours, first blocks, random ones (Zaheer et al. 2020, "Big
/// Bird", arXiv 2007.14062, section 2) and those at butterfly distances (Dao et al. 2022, arXiv 2205.14135,
/// section 3.3; Chen et al. 2022, "Pixelated Butterfly", arXiv 2112.00029, section 3).
class BlockSparseAttention final : public Attention {
 public:
  struct Config {
    std::int64_t block = 64, local_blocks = 1, global_blocks = 1, random_blocks = 3;
    bool butterfly = false;
    void fields(Fields& f) {
      f("block", block, "tokens of a block; multiples of 64 are fastest", between(1, 65536));
      f("local_blocks", local_blocks, "blocks on each side of its own that a block sees", between(0, 4096));
      f("global_blocks", global_blocks, "first blocks of a sequence, which see all and are seen by all",
        between(0, 4096));
      f("random_blocks", random_blocks, "blocks drawn once for each block and head", between(0, 64));
      f("butterfly", butterfly, "blocks whose number differs from the block's own in one binary digit");
    }
  };
  static constexpr AttentionTraits traits{};

  BlockSparseAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : pattern_{.block = static_cast<int>(config.block),
                 .from = static_cast<int>(-config.local_blocks),
                 .to = static_cast<int>(config.local_blocks),
                 .global = static_cast<int>(config.global_blocks * config.block),
                 .butterfly = config.butterfly,
                 .random_blocks = static_cast<int>(config.random_blocks),
                 .random_key = scope.stream("blocks").key},
        scale_(1 / std::sqrt(static_cast<double>(shape.head_width))) {}

  Tensor forward(const AttentionInput& in) override {
    return sparse_attention(in.query, in.key, in.value, in.layout, pattern_, scale_).y;
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    const double block = static_cast<double>(config.block),
                 digits = config.butterfly ? std::ceil(std::log2(std::max(length / block, 1.0))) : 0,
                 blocks = static_cast<double>(1 + 2 * config.local_blocks + 2 * config.global_blocks +
                                              config.random_blocks);
    return 2 * length * std::min(length, block * (blocks + digits)) *
           static_cast<double>(shape.heads * shape.head_width);
  }

 private:
  AttentionPattern pattern_;
  double scale_;
};

}  // namespace

AttentionKind block_sparse_attention() {
  return attention_kind<BlockSparseAttention>(
      "block_sparse",
      "exact attention over local, global, random and butterfly blocks: linear time and memory");
}

}  // namespace tern
