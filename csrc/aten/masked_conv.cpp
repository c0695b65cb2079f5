// The form of masked_conv2d for every device, through ATen's convolutions on the active part of the weight.
// A form for one device (csrc/cuda) overrides it where it is faster.
//
// Coefficients scale the weight, not the output: y_k = c_k (W_k * x) = (c_k W_k) * x. With G_k the gradient
// of the scaled weight, dL/dW_k = c_k G_k and dL/dc_k = <W_k, G_k>: no tensor of the output's size is made.
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>

#include "aten/convolution.h"
#include "aten/masked_conv.h"
#include "ops/layout.h"
#include "ops/masked_conv.h"

namespace supernet {
namespace {

using at::Tensor;
using aten::active_weight;

Tensor per_output(const Tensor& coefficients) {
  return coefficients.view({-1, 1, 1, 1});
}

// A channel whose coefficient is 0 is off, whatever its weight holds (0 * inf would be NaN).
Tensor scaled_weight(const Tensor& weight, const Tensor& c) {
  return at::mul(weight, c).masked_fill_(c == 0, 0).to(weight.scalar_type());
}

// A depthwise convolution with the usual padding is an operator of its own, which every device has a form of.
bool is_depthwise(const MaskedConvShape& s, const Tensor& weight, int64_t padding) {
  return s.weight_in == 1 && s.groups == s.in_channels && s.groups == s.out_channels &&
      padding == weight.size(2) / 2;
}

Tensor depthwise(const Tensor& x, const Tensor& weight, int64_t stride) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("supernet::depthwise_conv2d", "")
                             .typed<Tensor(const Tensor&, const Tensor&, int64_t)>();
  return op.call(x, weight, stride);
}

std::tuple<Tensor, Tensor> depthwise_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, int64_t stride, std::array<bool, 2> needed) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("supernet::depthwise_conv2d_backward", "")
          .typed<std::tuple<Tensor, Tensor>(
              const Tensor&, const Tensor&, const Tensor&, int64_t, std::array<bool, 2>)>();
  return op.call(grad, x, weight, stride, needed);
}

// A dense 1x1 convolution is an operator of its own, as a depthwise one is.
bool is_pointwise(const MaskedConvShape& s, const Tensor& weight, int64_t stride, int64_t padding) {
  return weight.size(2) == 1 && s.groups == 1 && stride == 1 && padding == 0;
}

Tensor pointwise(const Tensor& x, const Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("supernet::pointwise_conv2d", "")
                             .typed<Tensor(const Tensor&, const Tensor&)>();
  return op.call(x, weight);
}

std::tuple<Tensor, Tensor> pointwise_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::array<bool, 2> needed) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("supernet::pointwise_conv2d_backward", "")
          .typed<std::tuple<Tensor, Tensor>(
              const Tensor&, const Tensor&, const Tensor&, std::array<bool, 2>)>();
  return op.call(grad, x, weight, needed);
}

} // namespace

namespace aten {

Tensor active_weight(const Tensor& weight, const MaskedConvShape& s) {
  return weight.narrow(0, 0, s.out_channels).narrow(1, 0, s.weight_in);
}

Tensor active_convolution(
    const Tensor& x, const Tensor& w, const MaskedConvShape& s, int64_t stride, int64_t padding) {
  if (is_depthwise(s, w, padding)) {
    return depthwise(x, w, stride);
  }
  if (is_pointwise(s, w, stride, padding)) {
    return pointwise(x, w);
  }
  return channels_last(convolution(channels_last(x), w, {}, stride, padding, s.groups));
}

std::tuple<Tensor, Tensor> active_convolution_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& w,
    const MaskedConvShape& s,
    int64_t stride,
    int64_t padding,
    std::array<bool, 2> needed) {
  if (x.size(0) == 0) {
    return {needed[0] ? at::zeros_like(x) : Tensor(), needed[1] ? at::zeros_like(w) : Tensor()};
  }
  if (is_depthwise(s, w, padding)) {
    return depthwise_backward(grad, x, w, stride, needed);
  }
  if (is_pointwise(s, w, stride, padding)) {
    return pointwise_backward(grad, x, w, needed);
  }
  return convolution_backward(channels_last(grad), channels_last(x), w, stride, padding, s.groups, needed);
}

} // namespace aten

namespace {

Tensor masked_conv2d(
    const Tensor& x,
    const Tensor& weight,
    const std::optional<Tensor>& coefficients,
    std::optional<int64_t> out_channels,
    int64_t stride,
    int64_t padding,
    int64_t groups) {
  const auto s = check_masked_conv2d(x, weight, coefficients, out_channels, stride, padding, groups);
  const at::AutoDispatchBelowAutograd guard;
  if (x.size(0) == 0) {
    return at::empty(
        {0, s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  }
  auto w = active_weight(weight, s);
  if (coefficients.has_value()) {
    w = scaled_weight(w, per_output(*coefficients));
  }
  return aten::active_convolution(x, w, s, stride, padding);
}

// Gradients of x, weight and coefficients; those not needed are undefined tensors.
std::tuple<Tensor, Tensor, Tensor> masked_conv2d_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& weight,
    const std::optional<Tensor>& coefficients,
    int64_t stride,
    int64_t padding,
    int64_t groups,
    std::array<bool, 3> needed) {
  const auto s = check_masked_conv2d_backward(grad, x, weight, coefficients, stride, padding, groups, needed);
  const at::AutoDispatchBelowAutograd guard;

  const auto w = active_weight(weight, s);
  const auto c = coefficients.has_value() ? per_output(*coefficients) : Tensor();
  const bool needs_weight = needed[1] || (needed[2] && c.defined());

  auto [grad_x, grad_active] = aten::active_convolution_backward(
      grad, x, c.defined() ? scaled_weight(w, c) : w, s, stride, padding, {needed[0], needs_weight});

  Tensor grad_weight, grad_coefficients;
  if (needed[2] && c.defined()) {
    const auto type = accumulate_type(x);
    grad_coefficients = (grad_active.to(type) * w.to(type))
                            .sum({1, 2, 3})
                            .masked_fill_(*coefficients == 0, 0)
                            .to(coefficients->scalar_type());
  }
  if (needed[1]) {
    if (c.defined()) {
      grad_active = scaled_weight(grad_active, c);
    }
    if (w.sizes() == weight.sizes()) {
      grad_weight = in_layout_of(weight, grad_active);
    } else {
      grad_weight = at::zeros_like(weight);
      active_weight(grad_weight, s).copy_(grad_active);
    }
  }
  return {grad_x, grad_weight, grad_coefficients};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("masked_conv2d", &masked_conv2d);
  m.impl("masked_conv2d_backward", &masked_conv2d_backward);
}

} // namespace supernet
