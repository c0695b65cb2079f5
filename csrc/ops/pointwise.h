// Checks of pointwise_conv2d, shared by every device.
#pragma once

#include "ops/checks.h"

namespace supernet {

inline void check_pointwise(const char* op, const at::Tensor& x, const at::Tensor& weight) {
  check_image(op, "x", x);
  check_weight(op, "weight", weight, x);
  TORCH_CHECK(
      weight.size(0) >= 1 && weight.size(1) == x.size(1) && weight.size(2) == 1, op,
      ": weight should have shape [out, ", x.size(1), ", 1, 1] for x with ", x.size(1), " channels, got ",
      weight.sizes());
}

} // namespace supernet
