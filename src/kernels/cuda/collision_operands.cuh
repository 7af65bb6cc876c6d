// What the gradients of sampled attention read and write for a few heads at a time: codes, rows, gradients.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/unit_heads.cuh"
#include "kernels/hashing.h"

namespace tern::kernels {

/// Whether all rows may be read and written 16 bytes at a time.
template <class T, class Code>
bool rows_are_packed(const CollisionGradients<T, Code>& x) {
  return rows_are_packed(x.q) && rows_are_packed(x.k) && rows_are_packed(x.v) && rows_are_packed(x.dy) &&
         rows_are_packed(x.dq) && rows_are_packed(x.dk) && rows_are_packed(x.dv);
}

/// The operands of up to `most_heads` heads. Where rows y are given, queries and keys are scaled to length one
/// and dy becomes the gradient of what y was before its scaling, in a work area.
template <class T, class Code>
class HeadOperands {
 public:
  struct Rows {
    UnitRows<T> q, k;  ///< without lengths where rows are taken as they are
    Heads<const T> v, dy;
    Heads<T> dq, dk, dv;
  };

  /// y: without data where rows are taken as they are.
  HeadOperands(Cuda& cuda, const Sequences& sequences, HashShape shape, const RandomStream& stream,
               const CollisionGradients<T, Code>& all, const UnitRows<T>& y, int most_heads)
      : cuda_(cuda),
        sequences_(sequences),
        shape_(shape),
        stream_(stream),
        all_(all),
        y_(y),
        q_(cuda, sequences.tokens, unit_heads(most_heads), all.q.width),
        k_(cuda, sequences.tokens, unit_heads(most_heads), all.q.width),
        dy_(cuda, sequences.tokens, unit_heads(most_heads), all.q.width) {}

  /// Bytes of the work area for one head.
  static std::int64_t bytes_of_head(const Heads<const T>& rows, const UnitRows<T>& y) {
    return y.rows.data == nullptr ? 0 : 3 * UnitHeads<T>::bytes_of_head(rows.tokens, rows.width);
  }

  /// Calls use(q_codes, k_codes) with the codes of `heads` heads from `first` on; they are hashed again where
  /// nobody kept them.
  template <class Use>
  void with_codes(int first, int heads, const Use& use) const {
    const std::int64_t of_head = shape_.hashes * sequences_.tokens, skipped = first * of_head;
    if (all_.q_codes != nullptr) return use(all_.q_codes + skipped, all_.k_codes + skipped);
    const Scratch<Code> codes(cuda_, 2 * heads * of_head);
    Code* const k_codes = codes.data() + heads * of_head;
    hash_codes<T, Code>(cuda_, sequences_, heads_from(all_.q, first, heads), heads_from(all_.k, first, heads),
                        shape_, stream_, codes.data(), k_codes, first);
    use(static_cast<const Code*>(codes.data()), static_cast<const Code*>(k_codes));
  }

  /// Holds until the next call.
  Rows rows(int first, int heads) const {
    const auto part = [&](const auto& x) { return heads_from(x, first, heads); };
    Rows rows{{part(all_.q), {}}, {part(all_.k), {}}, part(all_.v), part(all_.dy),
              part(all_.dq),      part(all_.dk),      part(all_.dv)};
    if (y_.rows.data == nullptr) return rows;
    rows.q = q_.scale(cuda_, rows.q.rows);
    rows.k = k_.scale(cuda_, rows.k.rows);
    rows.dy = dy_.pass_scaling(cuda_, heads_from(y_, first, heads), rows.dy);
    return rows;
  }

 private:
  int unit_heads(int heads) const { return y_.rows.data == nullptr ? 0 : heads; }

  Cuda& cuda_;
  Sequences sequences_;
  HashShape shape_;
  RandomStream stream_;
  CollisionGradients<T, Code> all_;
  UnitRows<T> y_;
  UnitHeads<T> q_, k_, dy_;
};

}  // namespace tern::kernels
