// Checks and sizes of depthwise_conv2d, shared by every device.
#pragma once

#include <utility>

#include "ops/checks.h"

namespace supernet {

// The height and width of the output.
inline std::pair<int64_t, int64_t> depthwise_shape(
    const char* op, const at::Tensor& x, const at::Tensor& weight, int64_t stride) {
  check_image(op, "x", x);
  check_weight(op, "weight", weight, x);
  const auto channels = x.size(1), k = weight.size(2);
  TORCH_CHECK(
      weight.size(0) == channels && weight.size(1) == 1, op, ": weight should have shape [", channels,
      ", 1, k, k] for x with ", channels, " channels, got ", weight.sizes());
  return {
      conv_out_size(op, x.size(2), k, stride, k / 2), conv_out_size(op, x.size(3), k, stride, k / 2)};
}

inline std::pair<int64_t, int64_t> check_depthwise_conv2d(
    const at::Tensor& x, const at::Tensor& weight, int64_t stride) {
  return depthwise_shape("depthwise_conv2d", x, weight, stride);
}

inline std::pair<int64_t, int64_t> check_depthwise_conv2d_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& weight,
    int64_t stride,
    c10::ArrayRef<bool> needed) {
  constexpr auto op = "depthwise_conv2d_backward";
  check_needed(op, needed, 2);
  const auto size = depthwise_shape(op, x, weight, stride);
  check_like(op, "grad", grad, {x.size(0), x.size(1), size.first, size.second}, x);
  return size;
}

} // namespace supernet
