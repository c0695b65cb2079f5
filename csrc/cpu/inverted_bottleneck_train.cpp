// inverted_bottleneck_train and its backward on the CPU: the expansion takes the statistics of its output as
// it goes; the depthwise part reads that output through batch norm and activation, band after band, and so does
// its backward, where each band of the gradient goes back through them while it is in the cache.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "cpu/separable_batch.h"
#include "ops/inverted_bottleneck.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs inverted_bottleneck_train_cpu(
    const Tensor& x,
    const Tensor& expand_weight,
    const OptionalTensor& expand_gamma,
    const OptionalTensor& expand_beta,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act) {
  const auto [s, activation] = check_inverted_bottleneck_train(
      x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta, eps,
      residual, stride, act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  const auto pixels = x.size(0) * x.size(2) * x.size(3);
  auto expand_out = at::empty(
      {x.size(0), s.channels, x.size(2), x.size(3)}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  return AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "inverted_bottleneck_train", [&]() -> Outputs {
    const auto* from = in.const_data_ptr<scalar_t>();
    auto* expanded = expand_out.data_ptr<scalar_t>();
    const cpu::PointwiseBatch<scalar_t> expand(pixels, expand_weight);
    const auto [mean, var] = expand.forward_moments(from, nullptr, expanded);
    const cpu::BatchNorm<cpu::Compute<scalar_t>> bn(mean, var, expand_gamma, expand_beta, eps, pixels);
    const auto prologue = bn.apply(activation);
    const cpu::SeparableBatch<scalar_t> separable(in, s, dw_weight, pw_weight, stride);
    const auto [y, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var] = separable.forward(
        expanded, &prologue, {dw_gamma, dw_beta, eps, activation}, {pw_gamma, pw_beta, eps, Activation::none},
        residual ? from : nullptr);
    return {y, expand_out, dw_out, pw_out, mean, var, dw_mean, dw_var, pw_mean, pw_var};
  });
}

Outputs inverted_bottleneck_backward_cpu(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& expand_out,
    const Tensor& dw_out,
    const Tensor& pw_out,
    const Tensor& expand_weight,
    const OptionalTensor& expand_gamma,
    const OptionalTensor& expand_beta,
    const Tensor& expand_mean,
    const Tensor& expand_var,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    const Tensor& dw_mean,
    const Tensor& dw_var,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    const Tensor& pw_mean,
    const Tensor& pw_var,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act,
    bool x_needed) {
  const auto [s, activation] = check_inverted_bottleneck_backward(
      grad, x, expand_out, dw_out, pw_out, expand_weight, expand_gamma, expand_beta, expand_mean, expand_var, dw_weight,
      dw_gamma, dw_beta, dw_mean, dw_var, pw_weight, pw_gamma, pw_beta, pw_mean, pw_var, eps, residual, stride, act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x), saved = channels_last(expand_out), dy = channels_last(grad);
  const auto pixels = x.size(0) * x.size(2) * x.size(3), channels = s.channels;
  auto grad_x = x_needed ? at::empty_like(in) : Tensor();
  cpu::NormGradients norm(channels, x);
  return AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "inverted_bottleneck_train", [&]() -> Outputs {
    using S = cpu::Compute<scalar_t>;
    const auto& rows = cpu::row_kernels<scalar_t, S>();
    const auto *from = in.const_data_ptr<scalar_t>(), *expanded = saved.const_data_ptr<scalar_t>();
    const cpu::BatchNorm<S> bn(expand_mean, expand_var, expand_gamma, expand_beta, eps, pixels);
    const auto prologue = bn.apply(activation);

    // The gradient of the expansion's output, but for what its batch norm subtracts; and the sums for that.
    const cpu::SeparableBatch<scalar_t> separable(in, s, dw_weight, pw_weight, stride);
    const auto z = cpu::values<S>({pixels * channels});
    const auto sums = at::zeros({separable.groups().count, 2 * bn.padded}, z.options());
    auto *g_z = z.template data_ptr<S>(), *sum = sums.template data_ptr<S>();
    const auto [g_dw_weight, g_dw_gamma, g_dw_beta, g_pw_weight, g_pw_gamma, g_pw_beta] = separable.backward(
        dy, expanded, &prologue, dw_out, pw_out, {dw_gamma, dw_beta, eps, activation}, {dw_mean, dw_var},
        {pw_gamma, pw_beta, eps, Activation::none}, {pw_mean, pw_var}, g_z,
        [&](int64_t band, int64_t begin, int64_t n, S* g) {
          rows.mask_and_reduce_grad(
              g, expanded + begin * channels, n, channels, prologue, bn.mean.data(), sum + band * 2 * bn.padded);
        });

    const auto abc = bn.gradient(
        sum, separable.groups().count, norm.gamma.template data_ptr<S>(), norm.beta.template data_ptr<S>());
    const auto linear = bn.apply(Activation::none);
    const cpu::PointwiseBatch<scalar_t> expand(pixels, expand_weight);
    const auto g_weight = expand.backward(
        [&](int64_t begin, int64_t n, S* out) {
          const auto at = begin * channels;
          rows.input_grad_of_values(g_z + at, expanded + at, n, channels, linear, abc.data(), out);
        },
        from, nullptr, residual ? dy.const_data_ptr<scalar_t>() : nullptr,
        x_needed ? grad_x.data_ptr<scalar_t>() : nullptr, cpu::nothing_more);
    return {
        grad_x,
        in_layout_of(expand_weight, g_weight.to(x.scalar_type())),
        gradient_for(expand_gamma, norm.gamma),
        gradient_for(expand_beta, norm.beta),
        in_layout_of(dw_weight, g_dw_weight.to(x.scalar_type())),
        g_dw_gamma,
        g_dw_beta,
        in_layout_of(pw_weight, g_pw_weight.to(x.scalar_type())),
        g_pw_gamma,
        g_pw_beta};
  });
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("inverted_bottleneck_train", &inverted_bottleneck_train_cpu);
  m.impl("inverted_bottleneck_backward", &inverted_bottleneck_backward_cpu);
}

} // namespace supernet
