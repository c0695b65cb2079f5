#include "cuda/depth_mix_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

#define EXPORT(name, T, Acc)                                      \
  SIMT_EXPORT(depth_mix_##name, depth_mix<T, Acc, 32>)            \
  SIMT_EXPORT(depth_mix_backward_##name, depth_mix_backward<T, Acc, 32>)

EXPORT(float64, double, double)
EXPORT(float32, float, float)
EXPORT(float16, c10::Half, float)
EXPORT(bfloat16, c10::BFloat16, float)
