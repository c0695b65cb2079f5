// The depthwise kernels in bfloat16.
#include "cuda/depthwise_launches.cuh"

namespace supernet::cuda {

SUPERNET_DEPTHWISE_LAUNCHES(, c10::BFloat16)

} // namespace supernet::cuda
