// The kernels of dw_separable in bfloat16.
#include "cuda/dw_separable_launches.cuh"

namespace supernet::cuda {

SUPERNET_DW_SEPARABLE_LAUNCHES(, c10::BFloat16)

} // namespace supernet::cuda
