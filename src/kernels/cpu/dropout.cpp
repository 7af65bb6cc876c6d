#include "kernels/dropout.h"

#include "base/parallel.h"
#include "kernels/cpu/dropout_row.h"

namespace tern::kernels {

template <class T, Isa isa>
void dropout(Cpu<isa>&, Rows<const T> x, const DropoutMask& mask, T* y) {
  parallel_for(x.rows, 64, [&](std::int64_t r) {
    dropout_row<isa>(mask, r, x.width, x.row(r), static_cast<const T*>(nullptr), y + r * x.width);
  });
}

template void dropout<float>(Cpu<TERN_ISA>&, Rows<const float>, const DropoutMask&, float*);
template void dropout<double>(Cpu<TERN_ISA>&, Rows<const double>, const DropoutMask&, double*);

}  // namespace tern::kernels
