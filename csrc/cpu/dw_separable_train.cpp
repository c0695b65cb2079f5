// dw_separable_train and its backward on the CPU.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "cpu/separable_batch.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_train_cpu(
    const Tensor& x,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    double dw_eps,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act) {
  const auto [s, mid, out] = check_dw_separable_train(
      x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act, out_act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  return AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "dw_separable_train", [&] {
    const cpu::SeparableBatch<scalar_t> batch(in, s, dw_weight, pw_weight, stride);
    return batch.forward(
        in.const_data_ptr<scalar_t>(), nullptr, {dw_gamma, dw_beta, dw_eps, mid},
        {pw_gamma, pw_beta, pw_eps, out}, nullptr);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_backward_cpu(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& dw_out,
    const Tensor& pw_out,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    const Tensor& dw_mean,
    const Tensor& dw_var,
    double dw_eps,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    const Tensor& pw_mean,
    const Tensor& pw_var,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act,
    bool x_needed) {
  const auto [s, mid, out] = check_dw_separable_backward(
      grad, x, dw_out, pw_out, dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, dw_eps, pw_weight, pw_gamma, pw_beta,
      pw_mean, pw_var, pw_eps, stride, mid_act, out_act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  auto grad_x = x_needed ? at::empty_like(in) : Tensor();
  const auto [grad_dw, dw_gamma_grad, dw_beta_grad, grad_pw, pw_gamma_grad, pw_beta_grad] =
      AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "dw_separable_train", [&] {
        const cpu::SeparableBatch<scalar_t> batch(in, s, dw_weight, pw_weight, stride);
        return batch.backward(
            grad, in.const_data_ptr<scalar_t>(), nullptr, dw_out, pw_out, {dw_gamma, dw_beta, dw_eps, mid},
            {dw_mean, dw_var}, {pw_gamma, pw_beta, pw_eps, out}, {pw_mean, pw_var},
            x_needed ? grad_x.data_ptr<scalar_t>() : nullptr, cpu::nothing_more);
      });
  return {
      grad_x,
      in_layout_of(dw_weight, grad_dw.to(dw_weight.scalar_type())),
      dw_gamma_grad,
      dw_beta_grad,
      in_layout_of(pw_weight, grad_pw.to(pw_weight.scalar_type())),
      pw_gamma_grad,
      pw_beta_grad};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("dw_separable_train", &dw_separable_train_cpu);
  m.impl("dw_separable_backward", &dw_separable_backward_cpu);
}

} // namespace supernet
