// Device code of masked_conv2d: what happens to the weight before and after the convolution on its active part.
//
// Coefficients scale the weight, not the output: y_k = c_k (W_k * x) = (c_k W_k) * x. With G_k the gradient of the
// scaled weight, dL/dW_k = c_k G_k and dL/dc_k = <W_k, G_k>: the epilogue costs a pass over the weight, and no tensor of
// the output's size is read or written for it.
#pragma once

#include "cuda/common.cuh"

namespace supernet::cuda {

constexpr int kMaskThreads = 256;

// A weight [outputs, inputs, k, k] in any layout; the first outputs and inputs of it are active.
struct WeightSize {
  int64_t outputs, inputs, kernel, active_outputs, active_inputs;
};

struct WeightStrides {
  int64_t output, input, row, column;

  __device__ int64_t offset(int64_t o, int64_t i, int64_t tap, int64_t kernel) const {
    return o * output + i * input + tap / kernel * row + tap % kernel * column;
  }
};

// scaled = c · weight over the active part, in channels_last: [active outputs][taps][active inputs]. A channel whose
// coefficient is 0 is off, whatever its weight holds (0 · inf would be NaN). A block for each output.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kMaskThreads) scale_weight_kernel(
    const T* weight, const Acc* coefficients, T* scaled, WeightSize s, WeightStrides strides) {
  const int64_t o = blockIdx.x, taps = s.kernel * s.kernel, count = taps * s.active_inputs;
  const Acc c = cuda::load(coefficients + o);
  for (int64_t e = threadIdx.x; e < count; e += kMaskThreads) {
    Acc value = 0;
    if (c != Acc(0)) {
      const int64_t at = strides.offset(o, e % s.active_inputs, e / s.active_inputs, s.kernel);
      value = c * static_cast<Acc>(cuda::load(weight + at));
    }
    store(scaled + o * count + e, static_cast<T>(value));
  }
}

// From G, the gradient of the scaled active weight: grad_weight = c · G, 0 where the weight is not active, and
// grad_coefficients = <weight, G>. Without coefficients c is 1; a null output is not wanted. A block for each output.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kMaskThreads) weight_gradient_kernel(
    const T* scaled_grad, const T* weight, const Acc* coefficients, T* grad_weight, Acc* grad_coefficients,
    WeightSize s, WeightStrides grad_strides, WeightStrides weight_strides) {
  SUPERNET_SHARED(Acc, scratch, kMaskThreads / 32);
  const int64_t o = blockIdx.x, taps = s.kernel * s.kernel, count = taps * s.inputs;
  const bool active = o < s.active_outputs;
  const Acc c = !active ? Acc(0) : coefficients ? cuda::load(coefficients + o) : Acc(1);
  Acc dot = 0;
  for (int64_t e = threadIdx.x; e < count; e += kMaskThreads) {
    const int64_t i = e / taps, tap = e % taps, at = weight_strides.offset(o, i, tap, s.kernel);
    Acc value = 0;
    if (c != Acc(0) && i < s.active_inputs) {
      const Acc g = static_cast<Acc>(cuda::load(scaled_grad + grad_strides.offset(o, i, tap, s.kernel)));
      value = c * g;
      if (grad_coefficients) {
        dot += g * static_cast<Acc>(cuda::load(weight + at));
      }
    }
    if (grad_weight) {
      store(grad_weight + at, static_cast<T>(value));
    }
  }
  dot = block_sum(dot, scratch);
  if (grad_coefficients && active && threadIdx.x == 0) {
    store(grad_coefficients + o, dot);
  }
}

// ---- launches ----

template <typename T, typename Acc>
void scale_weight(
    const WeightSize& s, const WeightStrides& strides, const T* weight, const Acc* coefficients, T* scaled,
    Stream stream) {
  launch(
      &scale_weight_kernel<T, Acc>, static_cast<unsigned>(s.active_outputs), kMaskThreads, 0, stream, weight,
      coefficients, scaled, s, strides);
}

// grad_weight has the weight's strides.
template <typename T, typename Acc>
void masked_weight_gradient(
    const WeightSize& s, const WeightStrides& grad_strides, const WeightStrides& weight_strides, const T* scaled_grad,
    const T* weight, const Acc* coefficients, T* grad_weight, Acc* grad_coefficients, Stream stream) {
  launch(
      &weight_gradient_kernel<T, Acc>, static_cast<unsigned>(s.outputs), kMaskThreads, 0, stream, scaled_grad, weight,
      coefficients, grad_weight, grad_coefficients, s, grad_strides, weight_strides);
}

} // namespace supernet::cuda
