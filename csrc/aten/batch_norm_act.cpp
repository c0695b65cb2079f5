// The form of batch_norm_act for every device, through ATen.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "aten/batch_norm.h"
#include "ops/batch_norm_act.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_train(
    const Tensor& x, const OptionalTensor& gamma, const OptionalTensor& beta, double eps, std::string_view act) {
  const auto activation = check_batch_norm_act_train(x, gamma, beta, eps, act).act;
  const at::AutoDispatchBelowAutograd guard;
  auto [y, mean, var] = aten::BatchNorm(x, gamma, beta, eps).train(channels_last(x));
  aten::activate_(activation, y);
  return {channels_last(y), mean, var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward(
    const Tensor& grad,
    const Tensor& x,
    const OptionalTensor& gamma,
    const OptionalTensor& beta,
    const Tensor& mean,
    const Tensor& var,
    double eps,
    std::string_view act) {
  const auto activation = check_batch_norm_act_backward(grad, x, gamma, beta, mean, var, eps, act).act;
  const at::AutoDispatchBelowAutograd guard;
  const aten::BatchNorm bn(x, gamma, beta, eps);
  const auto in = channels_last(x);
  auto g = channels_last(grad);
  if (activation != Activation::none) {
    const auto z = bn.normalise(in, mean, var);
    g = aten::activate_backward(activation, g, z, z);
  }
  auto [grad_x, grad_gamma, grad_beta] = bn.backward(g, in, mean, var);
  return {grad_x, gradient_for(gamma, grad_gamma), gradient_for(beta, grad_beta)};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("batch_norm_act_train", &batch_norm_act_train);
  m.impl("batch_norm_act_backward", &batch_norm_act_backward);
}

} // namespace supernet
