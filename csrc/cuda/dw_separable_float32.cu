// The kernels of dw_separable in float32.
#include "cuda/dw_separable_launches.cuh"

namespace supernet::cuda {

SUPERNET_DW_SEPARABLE_LAUNCHES(, float)

} // namespace supernet::cuda
