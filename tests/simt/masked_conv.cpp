#include "cuda/masked_conv_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

template <typename T, typename Acc>
void scale(
    const T* weight, const Acc* coefficients, T* scaled, int64_t outputs, int64_t inputs, int64_t kernel,
    int64_t active_outputs, int64_t active_inputs, Stream stream) {
  const WeightStrides strides = {inputs * kernel * kernel, kernel * kernel, kernel, 1};
  scale_weight<T, Acc>(
      {outputs, inputs, kernel, active_outputs, active_inputs}, strides, weight, coefficients, scaled, stream);
}

// scaled_grad is channels_last, [active outputs, taps, active inputs]; the weight is contiguous.
template <typename T, typename Acc>
void gradient(
    const T* scaled_grad, const T* weight, const Acc* coefficients, T* grad_weight, Acc* grad_coefficients,
    int64_t outputs, int64_t inputs, int64_t kernel, int64_t active_outputs, int64_t active_inputs, Stream stream) {
  const WeightStrides of_grad = {
      kernel * kernel * active_inputs, 1, kernel * active_inputs, active_inputs};
  const WeightStrides of_weight = {inputs * kernel * kernel, kernel * kernel, kernel, 1};
  masked_weight_gradient<T, Acc>(
      {outputs, inputs, kernel, active_outputs, active_inputs}, of_grad, of_weight, scaled_grad, weight, coefficients,
      grad_weight, grad_coefficients, stream);
}

#define EXPORT(name, T, Acc)                    \
  SIMT_EXPORT(scale_##name, scale<T, Acc>)      \
  SIMT_EXPORT(gradient_##name, gradient<T, Acc>)

EXPORT(float64, double, double)
EXPORT(float32, float, float)
EXPORT(float16, c10::Half, float)
EXPORT(bfloat16, c10::BFloat16, float)
