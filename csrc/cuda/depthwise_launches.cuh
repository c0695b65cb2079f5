// The launches of the depthwise kernels, declared. A file for each type compiles them: in one they take two minutes,
// which a build waits for however many cores it has.
#pragma once

#include "cuda/depthwise_kernels.cuh"
#include "cuda/depthwise_weight_kernels.cuh"

// EXTERN is `extern`, or nothing where they are compiled.
#define SUPERNET_DEPTHWISE_LAUNCHES(EXTERN, T)                                                                  \
  EXTERN template void depthwise_forward<T>(                                                                    \
      const DepthwiseSize&, const T*, const NormAct<float>*, const T*, T*, float*, Stream);                     \
  EXTERN template void depthwise_input_gradient<T>(                                                             \
      const DepthwiseSize&, const T*, const T*, const T*, const NormAct<float>*, T*, float*, Stream);           \
  EXTERN template void depthwise_weight_gradient<T, T>(                                                         \
      const DepthwiseSize&, const T*, const NormAct<float>*, const T*, float*, T*, Stream);

namespace supernet::cuda {

SUPERNET_DEPTHWISE_LAUNCHES(extern, float)
SUPERNET_DEPTHWISE_LAUNCHES(extern, c10::Half)
SUPERNET_DEPTHWISE_LAUNCHES(extern, c10::BFloat16)

} // namespace supernet::cuda
