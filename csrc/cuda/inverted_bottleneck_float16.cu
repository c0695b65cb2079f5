// The kernels of inverted_bottleneck in float16.
#include "cuda/inverted_bottleneck_launches.cuh"

namespace supernet::cuda {

SUPERNET_INVERTED_BOTTLENECK_LAUNCHES(, c10::Half)

} // namespace supernet::cuda
