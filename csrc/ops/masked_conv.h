// Checks and sizes of masked_conv2d, shared by every device.
#pragma once

#include <optional>

#include "ops/checks.h"

namespace supernet {

struct MaskedConvShape {
  int64_t in_channels; // active input channels: x.size(1)
  int64_t out_channels; // active output channels
  int64_t weight_in; // active length of the weight's second axis
  int64_t groups; // active groups
  int64_t height, width; // of the output
};

inline MaskedConvShape masked_conv_shape(
    const char* op,
    const at::Tensor& x,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& coefficients,
    std::optional<int64_t> outputs,
    int64_t stride,
    int64_t padding,
    int64_t groups) {
  check_image(op, "x", x);
  check_weight(op, "weight", weight, x);

  const auto in = x.size(1), weight_out = weight.size(0), weight_in = weight.size(1);
  TORCH_CHECK(groups >= 1, op, ": groups should be at least 1, got ", groups);

  int64_t active_groups = 1;
  if (groups == 1) {
    TORCH_CHECK(
        in <= weight_in, op, ": weight has ", weight_in, " input channels, x brings ", in);
  } else {
    // A width cuts whole groups away: their number follows from the channels x brings.
    TORCH_CHECK(
        weight_out % groups == 0, op, ": weight has ", weight_out, " output channels, which ", groups,
        " groups do not divide");
    TORCH_CHECK(
        in % weight_in == 0, op, ": x brings ", in, " channels, which groups of ", weight_in,
        " input channels do not divide");
    active_groups = in / weight_in;
    TORCH_CHECK(
        active_groups <= groups, op, ": weight has ", groups * weight_in, " input channels (", groups,
        " groups of ", weight_in, "), x brings ", in);
  }
  const auto all = active_groups * (weight_out / groups), out_channels = outputs.value_or(all);
  TORCH_CHECK(out_channels >= 1, op, ": out_channels should be at least 1, got ", out_channels);
  TORCH_CHECK(
      out_channels <= weight_out, op, ": weight has ", weight_out, " output channels, out_channels=",
      out_channels, " asks for more");
  TORCH_CHECK(
      groups == 1 || out_channels == all, op, ": x brings ", active_groups, " of ", groups,
      " groups, so out_channels should be ", all, ", got ", out_channels);
  if (coefficients.has_value()) {
    check_channels(op, "coefficients", *coefficients, out_channels, x);
  }
  const auto height = conv_out_size(op, x.size(2), weight.size(2), stride, padding);
  const auto width = conv_out_size(op, x.size(3), weight.size(3), stride, padding);
  check_made(op, x.size(0), out_channels, height, width);
  return {in, out_channels, groups == 1 ? in : weight_in, active_groups, height, width};
}

inline MaskedConvShape check_masked_conv2d(
    const at::Tensor& x,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& coefficients,
    std::optional<int64_t> out_channels,
    int64_t stride,
    int64_t padding,
    int64_t groups) {
  return masked_conv_shape("masked_conv2d", x, weight, coefficients, out_channels, stride, padding, groups);
}

inline MaskedConvShape check_masked_conv2d_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& coefficients,
    int64_t stride,
    int64_t padding,
    int64_t groups,
    c10::ArrayRef<bool> needed) {
  constexpr auto op = "masked_conv2d_backward";
  check_needed(op, needed, 3);
  check_image(op, "grad", grad);
  const auto s = masked_conv_shape(op, x, weight, coefficients, grad.size(1), stride, padding, groups);
  check_like(op, "grad", grad, {x.size(0), s.out_channels, s.height, s.width}, x);
  return s;
}

} // namespace supernet
