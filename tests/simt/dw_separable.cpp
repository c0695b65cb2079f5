#include "cuda/dw_separable_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

template <typename T>
void fused(
    const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift, const T* pw_weight,
    const float* pw_scale, const float* pw_shift, T* y, int mid_act, int out_act, bool tf32, int outputs, int64_t batch,
    int channels, int height, int width, int out_height, int out_width, int kernel, int stride, Stream stream) {
  dw_separable<T>(
      {batch, channels, height, width, out_height, out_width, kernel, stride}, outputs, x, dw_weight, dw_scale,
      dw_shift, pw_weight, pw_scale, pw_shift, supernet::Activation(mid_act), supernet::Activation(out_act), tf32, y, stream);
}

SIMT_EXPORT(fused_float32, fused<float>)
SIMT_EXPORT(fused_float16, fused<c10::Half>)
SIMT_EXPORT(fused_bfloat16, fused<c10::BFloat16>)
