// The launches of dw_separable, declared; a file for each type compiles them (depthwise_launches.cuh says why).
#pragma once

#include "cuda/dw_separable_kernels.cuh"

// EXTERN is `extern`, or nothing where they are compiled.
#define SUPERNET_DW_SEPARABLE_LAUNCHES(EXTERN, T)                                                                    \
  EXTERN template void dw_separable<T>(                                                                              \
      const DepthwiseSize&, int, const T*, const T*, const float*, const float*, const T*, const float*, const float*, \
      Activation, Activation, bool, T*, Stream);

namespace supernet::cuda {

SUPERNET_DW_SEPARABLE_LAUNCHES(extern, float)
SUPERNET_DW_SEPARABLE_LAUNCHES(extern, c10::Half)
SUPERNET_DW_SEPARABLE_LAUNCHES(extern, c10::BFloat16)

} // namespace supernet::cuda
