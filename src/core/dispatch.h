// The only switch over device, instruction set and number type.
#pragma once

#include "base/has_cuda.h"
#include "tern/tensor.h"

namespace tern {

/// The context of GPU `index` (base/cuda.h).
Cuda& cuda_context(int index);

template <class T>
struct Type {
  using type = T;
};

/// Calls body(context) with the kernels' context of `device`.
template <class Body>
void dispatch_device(Device device, const Body& body) {
  if constexpr (has_cuda)
    if (device.type == DeviceType::cuda) return body(cuda_context(device.index));
  ensure(device.type == DeviceType::cpu, "no kernels for device {}", device);
  switch (cpu_isa()) {
    case Isa::v2: {
      Cpu<Isa::v2> context;
      return body(context);
    }
    case Isa::v3: {
      Cpu<Isa::v3> context;
      return body(context);
    }
    case Isa::v4: {
      Cpu<Isa::v4> context;
      return body(context);
    }
  }
}

/// Calls body(context, Type<T>) with x's device and floating type; throws for a type without arithmetic
/// kernels.
template <class Body>
void dispatch(const Tensor& x, const Body& body) {
  dispatch_device(x.device(), [&]<class Context>(Context& context) {
    if constexpr (std::is_same_v<Context, Cuda>)
      if (x.dtype() == DType::bfloat16) return body(context, Type<bfloat16>{});
    switch (x.dtype()) {
      case DType::float32:
        return body(context, Type<float>{});
      case DType::float64:
        return body(context, Type<double>{});
      default:
        throw_error(ExitCode::failed, "arithmetic on {} is not available on {}; cast to float32", x.dtype(),
                    x.device());
    }
  });
}

}  // namespace tern
