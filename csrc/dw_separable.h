// Checks and sizes of dw_separable, its training form and its backward, shared by every device.
#pragma once

#include "batch_norm_act.h"

namespace supernet {

struct DwSeparableShape {
  int64_t channels, out_channels; // of the depthwise part and of the output
  int64_t padding; // kernel / 2
  int64_t height, width; // after the depthwise part
  int64_t count; // values per channel that the statistics see
};

inline DwSeparableShape dw_separable_shape(
    const char* op,
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const at::Tensor& pw_weight,
    int64_t stride) {
  check_image(op, "x", x);
  check_weight(op, "dw_weight", dw_weight, x);
  check_weight(op, "pw_weight", pw_weight, x);
  const auto channels = x.size(1), k = dw_weight.size(2);
  TORCH_CHECK(
      dw_weight.size(0) == channels && dw_weight.size(1) == 1, op, ": dw_weight should have shape [",
      channels, ", 1, k, k] for x with ", channels, " channels, got ", dw_weight.sizes());
  TORCH_CHECK(
      pw_weight.size(0) >= 1 && pw_weight.size(1) == channels && pw_weight.size(2) == 1, op,
      ": pw_weight should have shape [out, ", channels, ", 1, 1] for x with ", channels, " channels, got ",
      pw_weight.sizes());
  const auto height = conv_out_size(op, x.size(2), k, stride, k / 2);
  const auto width = conv_out_size(op, x.size(3), k, stride, k / 2);
  return {channels, pw_weight.size(0), k / 2, height, width, x.size(0) * height * width};
}

} // namespace supernet
