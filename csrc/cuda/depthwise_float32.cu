// The depthwise kernels in float32.
#include "cuda/depthwise_launches.cuh"

namespace supernet::cuda {

SUPERNET_DEPTHWISE_LAUNCHES(, float)

} // namespace supernet::cuda
