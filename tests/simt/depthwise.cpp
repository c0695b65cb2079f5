#include "depthwise_kernels.cuh"
#include "depthwise_weight_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

// Sizes as [batch, channels, height, width, out_height, out_width, kernel, stride], one argument each.
#define SIZES \
  int64_t batch, int channels, int height, int width, int out_height, int out_width, int kernel, int stride
#define SIZE \
  { batch, channels, height, width, out_height, out_width, kernel, stride }

template <typename T>
void forward(const T* x, const T* weight, T* y, SIZES, Stream stream) {
  depthwise_forward<T>(SIZE, x, weight, y, nullptr, stream);
}

template <typename T>
void forward_moments(
    const T* x, const T* weight, T* y, float* partial, float* mean, float* var, SIZES, Stream stream) {
  const DepthwiseSize size = SIZE;
  depthwise_forward<T>(size, x, weight, y, partial, stream);
  merge_moments(partial, depthwise_moment_parts<T>(size), channels, mean, var, stream);
}

template <typename T>
void input_gradient(const T* grad, const T* weight, T* grad_x, SIZES, Stream stream) {
  depthwise_input_gradient<T>(SIZE, grad, weight, grad_x, stream);
}

template <typename T>
void weight_gradient(const T* x, const T* grad, float* partial, T* grad_weight, SIZES, Stream stream) {
  depthwise_weight_gradient<T, T>(SIZE, x, grad, partial, grad_weight, stream);
}

#define EXPORT(name, T)                                     \
  SIMT_EXPORT(forward_##name, forward<T>)                   \
  SIMT_EXPORT(forward_moments_##name, forward_moments<T>)   \
  SIMT_EXPORT(input_gradient_##name, input_gradient<T>)     \
  SIMT_EXPORT(weight_gradient_##name, weight_gradient<T>)

EXPORT(float32, float)
EXPORT(float16, c10::Half)
EXPORT(bfloat16, c10::BFloat16)
