// The launches of inverted_bottleneck, declared; a file for each type compiles them (depthwise_launches.cuh says why).
#pragma once

#include "cuda/inverted_bottleneck_kernels.cuh"

// EXTERN is `extern`, or nothing where they are compiled.
#define SUPERNET_INVERTED_BOTTLENECK_LAUNCHES(EXTERN, T) \
  EXTERN template void inverted_bottleneck<T>(FusedPlan, const InvertedBottleneckPointers<T>&, Activation, bool, Stream);

namespace supernet::cuda {

SUPERNET_INVERTED_BOTTLENECK_LAUNCHES(extern, float)
SUPERNET_INVERTED_BOTTLENECK_LAUNCHES(extern, c10::Half)
SUPERNET_INVERTED_BOTTLENECK_LAUNCHES(extern, c10::BFloat16)

} // namespace supernet::cuda
