// YOSO's expected form as its kernels compute it: some heads whose queries and keys have unit rows.
#pragma once

#include "kernels/attention.h"

namespace tern::kernels {

/// What rows q and k had before they were scaled to length one, of width 1. Without data they are taken as they
/// are.
template <class T>
struct InputLengths {
  Heads<const Accumulate<T>> q, k;
};

/// bernoulli_expectation_forward; where norm has data, rows of y are scaled to length one, and norm is what
/// they had.
template <class T>
void expect_values(Cuda&, const Sequences&, const AttentionInputs<T>&, const BernoulliOptions&, Heads<T> y,
                   Heads<Accumulate<T>> norm);
/// bernoulli_expectation_backward; where `lengths` have data, dq and dk are those of the rows before they were
/// scaled.
template <class T>
void differentiate_expectation(Cuda&, const Sequences&, const AttentionInputs<T>&, const BernoulliOptions&,
                               const InputLengths<T>& lengths, Heads<const T> dy, const AttentionGradients<T>&);

/// Takes gradients of unit rows through the scaling, where `lengths` have data.
template <class T>
void pass_scaling(Cuda& cuda, const AttentionInputs<T>& in, const InputLengths<T>& lengths,
                  const AttentionGradients<T>& gradients) {
  if (lengths.q.data == nullptr) return;
  unit_rows_backward<T>(cuda, {in.q, lengths.q}, read_only(gradients.dq), gradients.dq);
  unit_rows_backward<T>(cuda, {in.k, lengths.k}, read_only(gradients.dk), gradients.dk);
}

}  // namespace tern::kernels
