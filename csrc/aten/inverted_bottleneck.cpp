// The form of inverted_bottleneck for every device: the expansion through ATen, the rest through operators that
// a device may have a form of its own of.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "aten/batch_norm.h"
#include "aten/convolution.h"
#include "aten/inverted_bottleneck.h"
#include "ops/inverted_bottleneck.h"
#include "ops/layout.h"

namespace supernet {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor aten::inverted_bottleneck(
    const Tensor& x,
    const Tensor& expand_weight,
    const Tensor& expand_scale,
    const Tensor& expand_shift,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    bool residual,
    int64_t stride,
    std::string_view act) {
  const auto [s, activation] = check_inverted_bottleneck(
      x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift,
      residual, stride, act);
  const at::AutoDispatchBelowAutograd guard;
  if (x.size(0) == 0) {
    return at::empty(
        {0, s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  }
  const auto in = channels_last(x);
  const auto folded = at::mul(expand_weight, expand_scale.view({-1, 1, 1, 1})).to(x.scalar_type());
  auto expanded = channels_last(convolution(in, folded, expand_shift.to(x.scalar_type()), 1, 0, 1));
  aten::activate_(activation, expanded);
  static const auto separable =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("supernet::dw_separable", "")
          .typed<Tensor(
              const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
              const Tensor&, int64_t, std::string_view, std::string_view)>();
  auto y = separable.call(
      expanded, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, act, "none");
  return residual ? y.add_(in) : y;
}

aten::InvertedBottleneckTensors aten::inverted_bottleneck_train(
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
  const auto expand_out = channels_last(convolution(in, expand_weight, {}, 1, 0, 1));
  auto [expanded, expand_mean, expand_var] =
      aten::BatchNorm(x, expand_gamma, expand_beta, eps).train(expand_out);
  aten::activate_(activation, expanded);
  static const auto separable =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("supernet::dw_separable_train", "")
          .typed<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
              const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, double,
              const Tensor&, const OptionalTensor&, const OptionalTensor&, double, int64_t, std::string_view,
              std::string_view)>();
  auto [y, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var] = separable.call(
      expanded, dw_weight, dw_gamma, dw_beta, eps, pw_weight, pw_gamma, pw_beta, eps, stride, act, "none");
  return {
      residual ? y.add_(in) : y, expand_out, dw_out, pw_out, expand_mean, expand_var, dw_mean, dw_var, pw_mean,
      pw_var};
}

// Gradients of x and of weight, gamma and beta of the three convolutions; those not there are undefined.
aten::InvertedBottleneckTensors aten::inverted_bottleneck_backward(
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
  const aten::BatchNorm bn(x, expand_gamma, expand_beta, eps);
  const auto z = bn.normalise(expand_out, expand_mean, expand_var);
  auto expanded = aten::output_serves(activation) ? z : z.clone();
  aten::activate_(activation, expanded);
  static const auto separable =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("supernet::dw_separable_backward", "")
          .typed<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
              const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
              const OptionalTensor&, const Tensor&, const Tensor&, double, const Tensor&,
              const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, double, int64_t,
              std::string_view, std::string_view, bool)>();
  auto [g, g_dw_weight, g_dw_gamma, g_dw_beta, g_pw_weight, g_pw_gamma, g_pw_beta] = separable.call(
      grad, expanded, dw_out, pw_out, dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, eps, pw_weight, pw_gamma,
      pw_beta, pw_mean, pw_var, eps, stride, act, "none", true);
  g = aten::activate_backward(activation, g, z, g);
  auto [g_expand, g_gamma, g_beta] = bn.backward(g, expand_out, expand_mean, expand_var);
  auto [grad_x, g_weight] = convolution_backward(g_expand, channels_last(x), expand_weight, 1, 0, 1, {x_needed, true});
  if (x_needed) {
    grad_x = channels_last(residual ? grad_x.add_(grad) : grad_x);
  }
  return {
      grad_x, in_layout_of(expand_weight, g_weight), gradient_for(expand_gamma, g_gamma),
      gradient_for(expand_beta, g_beta), g_dw_weight, g_dw_gamma, g_dw_beta, g_pw_weight, g_pw_gamma, g_pw_beta};
}

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("inverted_bottleneck", &aten::inverted_bottleneck);
  m.impl("inverted_bottleneck_train", &aten::inverted_bottleneck_train);
  m.impl("inverted_bottleneck_backward", &aten::inverted_bottleneck_backward);
}

} // namespace supernet
