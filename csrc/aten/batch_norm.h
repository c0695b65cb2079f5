// Batch norm by the statistics of the batch, and activations, through ATen: for every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/hardswish_backward.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/hardtanh_backward.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <tuple>

#include "ops/activation.h"
#include "ops/checks.h"

namespace supernet::aten {

using at::Tensor;

inline void activate_(Activation act, Tensor& z) {
  switch (act) {
    case Activation::none:
      return;
    case Activation::relu:
      at::relu_(z);
      return;
    case Activation::relu6:
      at::hardtanh_(z, 0, 6);
      return;
    case Activation::hard_swish:
      at::hardswish_(z);
      return;
    case Activation::swish:
      at::silu_(z);
      return;
  }
}

// Whether the gradient is read off an activation's output as well as off its input.
inline bool output_serves(Activation act) {
  return act != Activation::hard_swish && act != Activation::swish;
}

// The gradient through an activation. `z` is its input, or its output where that serves. May write to
// `buffer`, which can be grad or z.
inline Tensor activate_backward(Activation act, const Tensor& grad, const Tensor& z, Tensor buffer) {
  switch (act) {
    case Activation::none:
      break;
    case Activation::relu:
      return at::threshold_backward_out(buffer, grad, z, 0);
    case Activation::relu6:
      return at::hardtanh_backward_out(buffer, grad, z, 0, 6);
    case Activation::hard_swish:
      return at::hardswish_backward(grad, z);
    case Activation::swish:
      return at::silu_backward(grad, z);
  }
  return grad;
}

// One batch norm's parameters in the type its statistics have.
struct BatchNorm {
  std::optional<Tensor> gamma, beta;
  double eps;
  at::ScalarType type;

  BatchNorm(const Tensor& x, const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta, double eps)
      : eps(eps), type(accumulate_type(x)) {
    if (gamma.has_value()) {
      this->gamma = gamma->to(type);
      this->beta = beta->to(type);
    }
  }

  // Normalises by the batch; returns (normalised, mean, biased variance).
  std::tuple<Tensor, Tensor, Tensor> train(const Tensor& x) const {
    const auto options = x.options().dtype(type).memory_format(std::nullopt);
    // Running statistics with momentum 1 are the batch's: float32 for bfloat16, and the variance itself,
    // which 1 / invstd^2 - eps would lose.
    auto mean = at::zeros({x.size(1)}, options), var = at::zeros({x.size(1)}, options);
    auto y = std::get<0>(at::native_batch_norm(x, gamma, beta, mean, var, true, 1.0, eps));
    const auto count = static_cast<double>(x.numel() / x.size(1));
    return {y, mean, var.mul_((count - 1) / count)}; // native_batch_norm keeps the unbiased one
  }

  Tensor normalise(const Tensor& x, const Tensor& mean, const Tensor& var) const {
    return std::get<0>(at::native_batch_norm(x, gamma, beta, mean, var, false, 0.0, eps));
  }

  // Gradients of (x, gamma, beta); those of a plain batch norm are undefined.
  std::tuple<Tensor, Tensor, Tensor> backward(
      const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& var) const {
    const auto invstd = var.add(eps).rsqrt_();
    const bool affine = gamma.has_value();
    return at::native_batch_norm_backward(
        grad, x, gamma, {}, {}, mean, invstd, true, eps, {true, affine, affine});
  }
};

} // namespace supernet::aten
