// Modules and their parameters. A module gets a Scope in its constructor, asks it for parameters, child scopes
// and random streams, and thereby gives each of them a dotted path such as
// "encoder.layers.0.attention.output.weight".
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "tern/autograd.h"
#include "tern/random.h"
#include "tern/tensor.h"

namespace tern {

/// How a parameter starts. Draws depend on the run's seed and the parameter's path only.
struct Initializer {
  enum class Law { constant, normal, uniform } law = Law::constant;
  double scale = 0;  ///< the constant, the standard deviation, or the bound of U(-bound, bound)
};
inline Initializer constant(double value) { return {Initializer::Law::constant, value}; }
inline Initializer normal(double deviation) { return {Initializer::Law::normal, deviation}; }
inline Initializer uniform(double bound) { return {Initializer::Law::uniform, bound}; }

/// What a parameter's users read: `master` values, or, where the store computes in bfloat16, values rounded to
/// it (operands of matrix products).
enum class Precision { master, compute };

struct Parameter {
  std::string path;
  Tensor value;   ///< a leaf: what ops read; after flatten() a slice of the flat blocks
  Tensor master;  ///< of accumulate_type(), what the optimizer updates and checkpoints hold; likewise a slice
  /// Where it is above 0, each row (of the last axis) is a moving average of directions: an update moves it by
  /// the share 1 - decay towards the direction in which the objective falls, whatever the learning rate, and
  /// gives it length 1. Gradients then carry sums over tokens, which micro-batches and ranks add up.
  double decay = 0;
};

/// Owns all parameters of a model: after flatten() in one block of values and one of gradients, on one device.
class ParameterStore {
 public:
  /// `dtype` is what the model computes in; `step`, in memory of `device`, is read at every random draw and
  /// must outlive the store.
  ParameterStore(std::uint64_t seed, const std::uint32_t* step, DType dtype = DType::float32,
                 Device device = {});

  /// The parameter at `path`, made on first use; asking again shares it, and must ask for the same shape.
  Parameter& get(const std::string& path, const Shape& shape, Initializer initializer,
                 Precision precision = Precision::master);
  /// Moves all parameters into the flat blocks, last made first: the order in which backward() finishes them.
  /// Call once, after the model is built.
  void flatten();

  const std::deque<Parameter>& parameters() const { return parameters_; }
  /// Leaves whose path begins with `prefix`.
  std::vector<Tensor> leaves(const std::string& prefix) const;
  std::int64_t count() const;
  /// All master values and all gradients, one parameter after another with gaps of zeros between them, of
  /// accumulate_type(dtype()); flatten() first.
  const Tensor& values() const { return values_; }
  const Tensor& gradients() const { return gradients_; }
  /// The values in bfloat16, where dtype() is that; undefined otherwise.
  const Tensor& rounded() const { return rounded_; }
  /// To be called after values() were written other than by the optimizer.
  void round_values();
  RandomStream stream(const std::string& path) const { return {stream_key(seed_, path), step_}; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

 private:
  std::uint64_t seed_;
  const std::uint32_t* step_;
  DType dtype_;
  Device device_;
  std::deque<Parameter> parameters_;
  std::map<std::string, Parameter*> by_path_;
  Tensor values_, gradients_, rounded_;
};

/// A place in the module tree: where a constructor gets its parameters and streams from.
class Scope {
 public:
  explicit Scope(ParameterStore& store) : store_(&store) {}
  Scope child(const std::string& name) const;
  /// The same parameters as this scope under the random streams of `other`: one more use of shared weights.
  Scope with_streams_of(const Scope& other) const;
  Parameter& parameter(const std::string& name, const Shape& shape, Initializer initializer,
                       Precision precision = Precision::master) const;
  RandomStream stream(const std::string& name) const;
  const std::string& path() const { return path_; }
  ParameterStore& store() const { return *store_; }

 private:
  ParameterStore* store_;
  std::string path_, stream_path_;
};

}  // namespace tern
