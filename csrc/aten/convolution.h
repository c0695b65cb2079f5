// Convolutions through ATen for the forms of every device.
//
// Two faults of oneDNN on the CPU are kept away from (docs/known_faults.md). In bfloat16 it computes wrong outputs and
// leaves parts of the weight's gradient unwritten where a tap of the kernel meets no pixel in any output: such shapes
// are computed in float32. The gradient of a 1x1 kernel of stride 2 that reads few channels writes beyond its memory:
// such kernels get the pixels that they read alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

namespace supernet::aten {

// Whether each of the taps along an axis meets a pixel.
inline bool taps_meet_pixels(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
  const auto outputs = (size + 2 * padding - kernel) / stride + 1;
  for (int64_t tap = 0; tap < kernel; ++tap) {
    // The first output whose pixel under this tap is not left of the image.
    const auto first = std::max<int64_t>(0, (padding - tap + stride - 1) / stride);
    if (first >= outputs || first * stride - padding + tap >= size) {
      return false;
    }
  }
  return true;
}

// The type to convolve in.
inline at::ScalarType convolution_type(
    const at::Tensor& x, const at::Tensor& weight, int64_t stride, int64_t padding) {
  const bool faulty = x.scalar_type() == at::kBFloat16 && x.is_cpu() &&
      !(taps_meet_pixels(x.size(2), weight.size(2), stride, padding) &&
        taps_meet_pixels(x.size(3), weight.size(3), stride, padding));
  return faulty ? at::kFloat : x.scalar_type();
}

// Whether the gradient of the weight would write beyond its memory.
inline bool few_strided(const at::Tensor& x, const at::Tensor& weight, int64_t stride, int64_t padding) {
  constexpr int64_t kVector = 16; // channels in a vector, at most
  return x.is_cpu() && stride > 1 && padding == 0 && weight.size(1) < kVector && weight.size(2) == 1 &&
      weight.size(3) == 1;
}

// The pixels that a 1x1 kernel of this stride reads, as a view.
inline at::Tensor read_pixels(const at::Tensor& x, int64_t stride) {
  return x.slice(2, 0, std::nullopt, stride).slice(3, 0, std::nullopt, stride);
}

// x in channels_last.
inline at::Tensor convolution(
    const at::Tensor& x,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& bias,
    int64_t stride,
    int64_t padding,
    int64_t groups) {
  const auto type = convolution_type(x, weight, stride, padding);
  const auto y = at::convolution(
      x.to(type), weight.to(type), bias.has_value() ? std::optional(bias->to(type)) : bias, {stride, stride},
      {padding, padding}, {1, 1}, false, {0, 0}, groups);
  return y.to(x.scalar_type());
}

// Gradients of x and the weight; those not needed are undefined. x and grad in channels_last.
inline std::tuple<at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& weight,
    int64_t stride,
    int64_t padding,
    int64_t groups,
    std::array<bool, 2> needed) {
  if (few_strided(x, weight, stride, padding)) {
    const auto read = read_pixels(x, stride).contiguous(at::MemoryFormat::ChannelsLast);
    const auto [grad_read, grad_weight] = convolution_backward(grad, read, weight, 1, 0, groups, needed);
    at::Tensor grad_x;
    if (needed[0]) {
      grad_x = at::zeros_like(x);
      read_pixels(grad_x, stride).copy_(grad_read);
    }
    return {grad_x, grad_weight};
  }
  const auto type = convolution_type(x, weight, stride, padding);
  const auto [grad_x, grad_weight, unused] = at::convolution_backward(
      grad.to(type), x.to(type), weight.to(type), {}, {stride, stride}, {padding, padding}, {1, 1}, false, {0, 0},
      groups, {needed[0], needed[1], false});
  return {
      needed[0] ? grad_x.to(x.scalar_type()) : at::Tensor(),
      needed[1] ? grad_weight.to(weight.scalar_type()) : at::Tensor()};
}

} // namespace supernet::aten
