// Collectives between the processes of one run. So far there is one process, for which every collective is the
// identity.
#pragma once

#include <memory>
#include <span>

#include "tern/tensor.h"

namespace tern {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Replaces each element by its sum over all ranks, in place; equal bits on every rank.
  virtual void sum(const Tensor& values) = 0;
  virtual void sum(std::span<double> values) = 0;
  /// Replaces `values` by those of rank 0.
  virtual void broadcast(const Tensor& values) = 0;
  /// Returns once every rank has called it.
  virtual void barrier() = 0;
};

std::unique_ptr<Communicator> solo_communicator();

}  // namespace tern
