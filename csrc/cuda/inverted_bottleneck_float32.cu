// The kernels of inverted_bottleneck in float32.
#include "cuda/inverted_bottleneck_launches.cuh"

namespace supernet::cuda {

SUPERNET_INVERTED_BOTTLENECK_LAUNCHES(, float)

} // namespace supernet::cuda
