// Checks of batch_norm_act_train and its backward, shared by every device.
#pragma once

#include <optional>

#include "ops/activation.h"
#include "ops/checks.h"

namespace supernet {

// gamma and beta come together or not at all, and a variance needs two values.
inline void check_batch_norm(
    const char* op,
    const char* gamma_name,
    const std::optional<at::Tensor>& gamma,
    const char* beta_name,
    const std::optional<at::Tensor>& beta,
    int64_t channels,
    double eps,
    const at::Tensor& x) {
  TORCH_CHECK(
      gamma.has_value() == beta.has_value(), op, ": ", gamma_name, " and ", beta_name,
      " should be given together or both be None");
  TORCH_CHECK(eps > 0, op, ": eps should be positive, got ", eps);
  if (gamma.has_value()) {
    check_channels(op, gamma_name, *gamma, channels, x);
    check_channels(op, beta_name, *beta, channels, x);
  }
}

inline void check_count(const char* op, int64_t count, const at::Tensor& x) {
  TORCH_CHECK(
      count > 1, op, ": batch statistics need more than one value per channel, x of shape ", x.sizes(), " leaves ",
      count);
}

// A gradient as the operators return it: in the parameter's type, undefined without one.
inline at::Tensor gradient_for(const std::optional<at::Tensor>& parameter, const at::Tensor& grad) {
  return parameter.has_value() ? grad.to(parameter->scalar_type()) : at::Tensor();
}

// A call whose arguments were checked.
struct BatchNormAct {
  int64_t count; // values per channel
  Activation act;
};

inline BatchNormAct batch_norm_act_call(
    const char* op,
    const at::Tensor& x,
    const std::optional<at::Tensor>& gamma,
    const std::optional<at::Tensor>& beta,
    double eps,
    std::string_view act) {
  check_image(op, "x", x);
  check_batch_norm(op, "gamma", gamma, "beta", beta, x.size(1), eps, x);
  const auto count = x.size(0) * x.size(2) * x.size(3);
  check_count(op, count, x);
  return {count, parse_activation(op, "act", act)};
}

inline BatchNormAct check_batch_norm_act_train(
    const at::Tensor& x,
    const std::optional<at::Tensor>& gamma,
    const std::optional<at::Tensor>& beta,
    double eps,
    std::string_view act) {
  return batch_norm_act_call("batch_norm_act_train", x, gamma, beta, eps, act);
}

inline BatchNormAct check_batch_norm_act_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const std::optional<at::Tensor>& gamma,
    const std::optional<at::Tensor>& beta,
    const at::Tensor& mean,
    const at::Tensor& var,
    double eps,
    std::string_view act) {
  constexpr auto op = "batch_norm_act_backward";
  const auto call = batch_norm_act_call(op, x, gamma, beta, eps, act);
  check_like(op, "grad", grad, x.sizes(), x);
  check_statistics(op, "mean", mean, x.size(1), x);
  check_statistics(op, "var", var, x.size(1), x);
  return call;
}

} // namespace supernet
