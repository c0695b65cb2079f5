// Checks and sizes of dw_separable, its training form and its backward, shared by every device.
#pragma once

#include <optional>
#include <string_view>

#include "ops/batch_norm_act.h"

namespace supernet {

struct DwSeparableShape {
  int64_t channels, out_channels; // of the depthwise part and of the output
  int64_t padding; // kernel / 2
  int64_t height, width; // after the depthwise part
  int64_t count; // values per channel that the statistics see
};

// A call whose arguments were checked.
struct DwSeparable {
  DwSeparableShape shape;
  Activation mid_act, out_act;
};

// `channels` come to the depthwise part, at x's height and width.
inline DwSeparableShape dw_separable_shape(
    const char* op,
    const at::Tensor& x,
    int64_t channels,
    const at::Tensor& dw_weight,
    const at::Tensor& pw_weight,
    int64_t stride) {
  check_weight(op, "dw_weight", dw_weight, x);
  check_weight(op, "pw_weight", pw_weight, x);
  const auto k = dw_weight.size(2);
  TORCH_CHECK(
      dw_weight.size(0) == channels && dw_weight.size(1) == 1, op, ": dw_weight should have shape [",
      channels, ", 1, k, k] for ", channels, " channels, got ", dw_weight.sizes());
  TORCH_CHECK(
      pw_weight.size(1) == channels && pw_weight.size(2) == 1, op,
      ": pw_weight should have shape [out, ", channels, ", 1, 1] for ", channels, " channels, got ",
      pw_weight.sizes());
  const auto height = conv_out_size(op, x.size(2), k, stride, k / 2);
  const auto width = conv_out_size(op, x.size(3), k, stride, k / 2);
  check_made(op, x.size(0), pw_weight.size(0), height, width);
  return {channels, pw_weight.size(0), k / 2, height, width, x.size(0) * height * width};
}

// The inference form: each batch norm as a scale and a shift.
inline DwSeparable check_dw_separable(
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_scale,
    const at::Tensor& dw_shift,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_scale,
    const at::Tensor& pw_shift,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act) {
  constexpr auto op = "dw_separable";
  check_image(op, "x", x);
  const auto s = dw_separable_shape(op, x, x.size(1), dw_weight, pw_weight, stride);
  check_channels(op, "dw_scale", dw_scale, s.channels, x);
  check_channels(op, "dw_shift", dw_shift, s.channels, x);
  check_channels(op, "pw_scale", pw_scale, s.out_channels, x);
  check_channels(op, "pw_shift", pw_shift, s.out_channels, x);
  return {s, parse_activation(op, "mid_act", mid_act), parse_activation(op, "out_act", out_act)};
}

// The training form, forward and backward: batch norms by the statistics of the batch.
inline DwSeparable dw_separable_train_call(
    const char* op,
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
    std::string_view out_act) {
  check_image(op, "x", x);
  const auto s = dw_separable_shape(op, x, x.size(1), dw_weight, pw_weight, stride);
  check_batch_norm(op, "dw_gamma", dw_gamma, "dw_beta", dw_beta, s.channels, dw_eps, x);
  check_batch_norm(op, "pw_gamma", pw_gamma, "pw_beta", pw_beta, s.out_channels, pw_eps, x);
  check_count(op, s.count, x);
  return {s, parse_activation(op, "mid_act", mid_act), parse_activation(op, "out_act", out_act)};
}

inline DwSeparable check_dw_separable_train(
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
    std::string_view out_act) {
  return dw_separable_train_call(
      "dw_separable_train", x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride,
      mid_act, out_act);
}

// What forward left for backward of the part behind the expansion, and the output's gradient.
inline void check_dw_separable_saved(
    const char* op,
    const DwSeparableShape& s,
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& dw_out,
    const at::Tensor& pw_out,
    const at::Tensor& dw_mean,
    const at::Tensor& dw_var,
    const at::Tensor& pw_mean,
    const at::Tensor& pw_var) {
  const int64_t middle[] = {x.size(0), s.channels, s.height, s.width};
  const int64_t out[] = {x.size(0), s.out_channels, s.height, s.width};
  check_like(op, "grad", grad, out, x);
  check_like(op, "dw_out", dw_out, middle, x);
  check_like(op, "pw_out", pw_out, out, x);
  check_statistics(op, "dw_mean", dw_mean, s.channels, x);
  check_statistics(op, "dw_var", dw_var, s.channels, x);
  check_statistics(op, "pw_mean", pw_mean, s.out_channels, x);
  check_statistics(op, "pw_var", pw_var, s.out_channels, x);
}

inline DwSeparable check_dw_separable_backward(
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
    bool /*x_needed*/ = true) {
  constexpr auto op = "dw_separable_backward";
  const auto call = dw_separable_train_call(
      op, x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act, out_act);
  check_dw_separable_saved(op, call.shape, grad, x, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var);
  return call;
}

} // namespace supernet
