#include "cuda/inverted_bottleneck_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

template <typename T>
void fused(
    const T* x, const T* expand_weight, const float* expand_scale, const float* expand_shift, const T* dw_weight,
    const float* dw_scale, const float* dw_shift, const T* pw_weight, const float* pw_scale, const float* pw_shift,
    T* y, int act, bool tf32, bool residual, int inputs, int outputs, int64_t batch, int channels, int height, int width,
    int out_height, int out_width, int kernel, int stride, Stream stream) {
  const auto plan = inverted_bottleneck_plan<T>(
      {batch, channels, height, width, out_height, out_width, kernel, stride}, inputs, outputs);
  if (plan) { // else y stays as it is
    inverted_bottleneck<T>(
        *plan,
        {x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift,
         residual ? x : nullptr, y},
        supernet::Activation(act), tf32, stream);
  }
}

SIMT_EXPORT(fused_float32, fused<float>)
SIMT_EXPORT(fused_float16, fused<c10::Half>)
SIMT_EXPORT(fused_bfloat16, fused<c10::BFloat16>)
