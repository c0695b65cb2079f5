#include "batch_norm_act_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

#define EXPORT(name, T, Acc)                                       \
  SIMT_EXPORT(statistics_##name, norm_statistics<T, Acc>)          \
  SIMT_EXPORT(forward_##name, norm_act<T, Acc>)                    \
  SIMT_EXPORT(backward_##name, norm_act_backward<T, Acc>)

EXPORT(float64, double, double)
EXPORT(float32, float, float)
EXPORT(float16, c10::Half, float)
EXPORT(bfloat16, c10::BFloat16, float)
