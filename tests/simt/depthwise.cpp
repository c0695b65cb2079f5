#include "cuda/batch_norm_act_kernels.cuh"
#include "cuda/depthwise_kernels.cuh"
#include "cuda/depthwise_weight_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

// Sizes as [batch, channels, height, width, out_height, out_width, kernel, stride], one argument each.
#define SIZES \
  int64_t batch, int channels, int height, int width, int out_height, int out_width, int kernel, int stride
#define SIZE \
  { batch, channels, height, width, out_height, out_width, kernel, stride }
// The batch norm with activation before the convolution.
#define NORMS \
  const float *mean, const float *var, const float *gamma, const float *beta, float eps, int act
#define NORM \
  { mean, var, gamma, beta, eps, supernet::Activation(act) }

template <typename T>
void forward(const T* x, const T* weight, T* y, SIZES, Stream stream) {
  depthwise_forward<T>(SIZE, x, nullptr, weight, y, nullptr, stream);
}

template <typename T>
void forward_moments(
    const T* x, const T* weight, T* y, float* partial, float* out_mean, float* out_var, SIZES, Stream stream) {
  const DepthwiseSize size = SIZE;
  depthwise_forward<T>(size, x, nullptr, weight, y, partial, stream);
  merge_moments(partial, depthwise_moment_parts<T>(size), channels, out_mean, out_var, stream);
}

template <typename T>
void norm_forward(
    const T* x, NORMS, const T* weight, T* y, float* partial, float* out_mean, float* out_var, SIZES, Stream stream) {
  const DepthwiseSize size = SIZE;
  const NormAct<float> norm = NORM;
  depthwise_forward<T>(size, x, &norm, weight, y, partial, stream);
  merge_moments(partial, depthwise_moment_parts<T>(size), channels, out_mean, out_var, stream);
}

template <typename T>
void input_gradient(const T* grad, const T* weight, T* grad_x, SIZES, Stream stream) {
  depthwise_input_gradient<T>(SIZE, grad, weight, nullptr, nullptr, grad_x, nullptr, stream);
}

// To x, and to gamma and beta if they are not null: grad_z, the gradient of z = norm(x), is on the way.
template <typename T>
void norm_input_gradient(
    const T* grad, const T* weight, const T* x, NORMS, T* grad_z, float* partial, float* sums, T* grad_x,
    float* grad_gamma, float* grad_beta, SIZES, Stream stream) {
  const DepthwiseSize size = SIZE;
  NormAct<float> norm = NORM;
  depthwise_input_gradient<T>(size, grad, weight, x, &norm, grad_z, partial, stream);
  norm.act = supernet::Activation::none;
  norm_act_gradient<T, float>(
      grad_z, x, norm, partial, depthwise_gradient_parts<T>(size), sums, grad_x, grad_gamma, grad_beta,
      batch * height * width, channels, stream);
}

template <typename T>
void weight_gradient(const T* x, const T* grad, float* partial, T* grad_weight, SIZES, Stream stream) {
  depthwise_weight_gradient<T, T>(SIZE, x, nullptr, grad, partial, grad_weight, stream);
}

template <typename T>
void norm_weight_gradient(const T* x, NORMS, const T* grad, float* partial, T* grad_weight, SIZES, Stream stream) {
  const NormAct<float> norm = NORM;
  depthwise_weight_gradient<T, T>(SIZE, x, &norm, grad, partial, grad_weight, stream);
}

#define EXPORT(name, T)                                           \
  SIMT_EXPORT(forward_##name, forward<T>)                         \
  SIMT_EXPORT(forward_moments_##name, forward_moments<T>)         \
  SIMT_EXPORT(norm_forward_##name, norm_forward<T>)               \
  SIMT_EXPORT(input_gradient_##name, input_gradient<T>)           \
  SIMT_EXPORT(norm_input_gradient_##name, norm_input_gradient<T>) \
  SIMT_EXPORT(weight_gradient_##name, weight_gradient<T>)         \
  SIMT_EXPORT(norm_weight_gradient_##name, norm_weight_gradient<T>)

EXPORT(float32, float)
EXPORT(float16, c10::Half)
EXPORT(bfloat16, c10::BFloat16)
