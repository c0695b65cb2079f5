// Checks and sizes of dw_separable, its training form and its backward, shared by every device.
#pragma once

#include <optional>
#include <string_view>
#include <tuple>

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

// The form for every device, for what a device's own kernels leave out.
namespace aten {

at::Tensor dw_separable(
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_scale,
    const at::Tensor& dw_shift,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_scale,
    const at::Tensor& pw_shift,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> dw_separable_train(
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    double dw_eps,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> dw_separable_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& dw_out,
    const at::Tensor& pw_out,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& dw_mean,
    const at::Tensor& dw_var,
    double dw_eps,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    const at::Tensor& pw_mean,
    const at::Tensor& pw_var,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act,
    bool x_needed);

} // namespace aten

} // namespace supernet
