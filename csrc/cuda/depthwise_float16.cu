// The depthwise kernels in float16.
#include "cuda/depthwise_launches.cuh"

namespace supernet::cuda {

SUPERNET_DEPTHWISE_LAUNCHES(, c10::Half)

} // namespace supernet::cuda
