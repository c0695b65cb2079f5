// Checks of pointwise_conv2d, shared by every device.
#pragma once

#include "ops/checks.h"

namespace supernet {

inline void pointwise_call(const char* op, const at::Tensor& x, const at::Tensor& weight) {
  check_image(op, "x", x);
  check_weight(op, "weight", weight, x);
  TORCH_CHECK(
      weight.size(1) == x.size(1) && weight.size(2) == 1, op,
      ": weight should have shape [out, ", x.size(1), ", 1, 1] for x with ", x.size(1), " channels, got ",
      weight.sizes());
  check_made(op, x.size(0), weight.size(0), x.size(2), x.size(3));
}

inline void check_pointwise_conv2d(const at::Tensor& x, const at::Tensor& weight) {
  pointwise_call("pointwise_conv2d", x, weight);
}

inline void check_pointwise_conv2d_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, c10::ArrayRef<bool> needed) {
  constexpr auto op = "pointwise_conv2d_backward";
  check_needed(op, needed, 2);
  pointwise_call(op, x, weight);
  check_like(op, "grad", grad, {x.size(0), weight.size(0), x.size(2), x.size(3)}, x);
}

} // namespace supernet
