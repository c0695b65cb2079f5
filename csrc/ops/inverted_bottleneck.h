// Checks and sizes of inverted_bottleneck, its training form and its backward, shared by every device.
#pragma once

#include "ops/dw_separable.h"

namespace supernet {

// A call whose arguments were checked. The activation follows the expansion and the depthwise part.
struct InvertedBottleneck {
  DwSeparableShape shape; // of all behind the expansion
  Activation act;
};

inline void check_expand_weight(const char* op, const at::Tensor& expand_weight, const at::Tensor& x) {
  check_weight(op, "expand_weight", expand_weight, x);
  TORCH_CHECK(
      expand_weight.size(1) == x.size(1) && expand_weight.size(2) == 1, op,
      ": expand_weight should have shape [mid, ", x.size(1), ", 1, 1] for x with ", x.size(1),
      " channels, got ", expand_weight.sizes());
  check_made(op, x.size(0), expand_weight.size(0), x.size(2), x.size(3));
}

inline void check_residual(
    const char* op, bool residual, int64_t stride, const at::Tensor& x, const DwSeparableShape& s) {
  TORCH_CHECK(
      !residual || (stride == 1 && s.out_channels == x.size(1)), op,
      ": a residual needs stride 1 and as many outputs as inputs, got stride ", stride, " and ", x.size(1),
      " -> ", s.out_channels, " channels");
}

inline InvertedBottleneck inverted_bottleneck_call(
    const char* op,
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const at::Tensor& dw_weight,
    const at::Tensor& pw_weight,
    bool residual,
    int64_t stride,
    std::string_view act) {
  check_image(op, "x", x);
  check_expand_weight(op, expand_weight, x);
  const auto s = dw_separable_shape(op, x, expand_weight.size(0), dw_weight, pw_weight, stride);
  check_residual(op, residual, stride, x, s);
  return {s, parse_activation(op, "act", act)};
}

// The inference form: each batch norm as a scale and a shift.
inline InvertedBottleneck check_inverted_bottleneck(
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const at::Tensor& expand_scale,
    const at::Tensor& expand_shift,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_scale,
    const at::Tensor& dw_shift,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_scale,
    const at::Tensor& pw_shift,
    bool residual,
    int64_t stride,
    std::string_view act) {
  constexpr auto op = "inverted_bottleneck";
  const auto call =
      inverted_bottleneck_call(op, x, expand_weight, dw_weight, pw_weight, residual, stride, act);
  check_channels(op, "expand_scale", expand_scale, call.shape.channels, x);
  check_channels(op, "expand_shift", expand_shift, call.shape.channels, x);
  check_channels(op, "dw_scale", dw_scale, call.shape.channels, x);
  check_channels(op, "dw_shift", dw_shift, call.shape.channels, x);
  check_channels(op, "pw_scale", pw_scale, call.shape.out_channels, x);
  check_channels(op, "pw_shift", pw_shift, call.shape.out_channels, x);
  return call;
}

// The training form, forward and backward: batch norms by the statistics of the batch.
inline InvertedBottleneck inverted_bottleneck_train_call(
    const char* op,
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const std::optional<at::Tensor>& expand_gamma,
    const std::optional<at::Tensor>& expand_beta,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act) {
  const auto call =
      inverted_bottleneck_call(op, x, expand_weight, dw_weight, pw_weight, residual, stride, act);
  const auto& s = call.shape;
  check_batch_norm(op, "expand_gamma", expand_gamma, "expand_beta", expand_beta, s.channels, eps, x);
  check_batch_norm(op, "dw_gamma", dw_gamma, "dw_beta", dw_beta, s.channels, eps, x);
  check_batch_norm(op, "pw_gamma", pw_gamma, "pw_beta", pw_beta, s.out_channels, eps, x);
  check_count(op, s.count, x);
  return call;
}

inline InvertedBottleneck check_inverted_bottleneck_train(
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const std::optional<at::Tensor>& expand_gamma,
    const std::optional<at::Tensor>& expand_beta,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act) {
  return inverted_bottleneck_train_call(
      "inverted_bottleneck_train", x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta,
      pw_weight, pw_gamma, pw_beta, eps, residual, stride, act);
}

inline InvertedBottleneck check_inverted_bottleneck_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& expand_out,
    const at::Tensor& dw_out,
    const at::Tensor& pw_out,
    const at::Tensor& expand_weight,
    const std::optional<at::Tensor>& expand_gamma,
    const std::optional<at::Tensor>& expand_beta,
    const at::Tensor& expand_mean,
    const at::Tensor& expand_var,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& dw_mean,
    const at::Tensor& dw_var,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    const at::Tensor& pw_mean,
    const at::Tensor& pw_var,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act,
    bool /*x_needed*/ = true) {
  constexpr auto op = "inverted_bottleneck_backward";
  const auto call = inverted_bottleneck_train_call(
      op, x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta,
      eps, residual, stride, act);
  const auto& s = call.shape;
  check_like(op, "expand_out", expand_out, {x.size(0), s.channels, x.size(2), x.size(3)}, x);
  check_statistics(op, "expand_mean", expand_mean, s.channels, x);
  check_statistics(op, "expand_var", expand_var, s.channels, x);
  check_dw_separable_saved(op, s, grad, x, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var);
  return call;
}

} // namespace supernet
