// batch_norm_act_train and its backward on the CPU: two passes over x each way, the second of which
// normalises and activates at once; nothing but x is kept.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cpu/batch_norm.h"
#include "ops/batch_norm_act.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_train_cpu(
    const Tensor& x,
    const OptionalTensor& gamma,
    const OptionalTensor& beta,
    double eps,
    std::string_view act) {
  const auto [count, activation] = check_batch_norm_act_train(x, gamma, beta, eps, act);
  const at::AutoDispatchBelowAutograd guard;

  const auto in = channels_last(x);
  const auto channels = x.size(1);
  auto y = at::empty_like(in);
  Tensor mean, var;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using S = cpu::Compute<scalar_t>;
    const auto& rows = cpu::row_kernels<scalar_t, S>();
    const cpu::PixelBlocks blocks(count, channels);
    const auto* from = in.const_data_ptr<scalar_t>();
    auto* to = y.data_ptr<scalar_t>();
    std::tie(mean, var) = cpu::batch_moments(from, blocks, channels);
    const cpu::BatchNorm<S> bn(mean, var, gamma, beta, eps, count);
    blocks.each(cpu::Order::descending, [&](int64_t, int64_t begin, int64_t n) {
      const auto at = begin * channels;
      rows.normalise_store(from + at, n, channels, bn.apply(activation), nullptr, to + at);
    });
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cpu(
    const Tensor& grad,
    const Tensor& x,
    const OptionalTensor& gamma,
    const OptionalTensor& beta,
    const Tensor& mean,
    const Tensor& var,
    double eps,
    std::string_view act) {
  const auto [count, activation] = check_batch_norm_act_backward(grad, x, gamma, beta, mean, var, eps, act);
  const at::AutoDispatchBelowAutograd guard;

  const auto in = channels_last(x), g = channels_last(grad);
  const auto channels = x.size(1);
  auto grad_x = at::empty_like(in);
  cpu::NormGradients grads(channels, x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using S = cpu::Compute<scalar_t>;
    const auto& rows = cpu::row_kernels<scalar_t, S>();
    const cpu::PixelBlocks blocks(count, channels);
    const cpu::BatchNorm<S> bn(mean, var, gamma, beta, eps, count);
    const auto *from = in.const_data_ptr<scalar_t>(), *dy = g.const_data_ptr<scalar_t>();
    auto* to = grad_x.data_ptr<scalar_t>();
    const auto abc = cpu::reduce_gradient(dy, from, blocks, bn, activation, grads);
    blocks.each(cpu::Order::descending, [&](int64_t, int64_t begin, int64_t n) {
      const auto at = begin * channels;
      rows.input_grad_store(dy + at, from + at, n, channels, bn.apply(activation), abc.data(), to + at);
    });
  });
  return {grad_x, gradient_for(gamma, grads.gamma), gradient_for(beta, grads.beta)};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("batch_norm_act_train", &batch_norm_act_train_cpu);
  m.impl("batch_norm_act_backward", &batch_norm_act_backward_cpu);
}

} // namespace supernet
