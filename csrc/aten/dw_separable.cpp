// The form of dw_separable for every device, through ATen's convolutions and batch norm.
// A form for one device (csrc/cpu, csrc/cuda) overrides it where it is faster.
//
// Training keeps x and the two outputs before batch norm only; the normalised and activated tensors are
// computed again in backward (one pass each, against a tensor kept per batch norm and activation).
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include <tuple>

#include "aten/batch_norm.h"
#include "aten/convolution.h"
#include "aten/dw_separable.h"
#include "ops/dw_separable.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using aten::activate_;
using aten::activate_backward;
using aten::BatchNorm;
using OptionalTensor = std::optional<Tensor>;

Tensor folded(const Tensor& weight, const Tensor& scale) {
  return at::mul(weight, scale.view({-1, 1, 1, 1})).to(weight.scalar_type());
}

} // namespace

namespace aten {

Tensor dw_separable(
    const Tensor& x,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act) {
  const auto [s, mid, out] = check_dw_separable(
      x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, mid_act, out_act);
  const at::AutoDispatchBelowAutograd guard;
  if (x.size(0) == 0) {
    return at::empty(
        {0, s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  }
  const auto type = x.scalar_type();
  auto y = convolution(
      channels_last(x), folded(dw_weight, dw_scale), dw_shift.to(type), stride, s.padding, s.channels);
  activate_(mid, y);
  y = convolution(y, folded(pw_weight, pw_scale), pw_shift.to(type), 1, 0, 1);
  activate_(out, y);
  return channels_last(y);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_train(
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

  const BatchNorm dw(x, dw_gamma, dw_beta, dw_eps), pw(x, pw_gamma, pw_beta, pw_eps);
  const auto dw_out = channels_last(convolution(channels_last(x), dw_weight, {}, stride, s.padding, s.channels));
  auto [z, dw_mean, dw_var] = dw.train(dw_out);
  activate_(mid, z);
  const auto pw_out = channels_last(convolution(z, pw_weight, {}, 1, 0, 1));
  auto [y, pw_mean, pw_var] = pw.train(pw_out);
  activate_(out, y);
  return {channels_last(y), dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var};
}

// Gradients of x, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta; those not there are undefined.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_backward(
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

  const BatchNorm dw(x, dw_gamma, dw_beta, dw_eps), pw(x, pw_gamma, pw_beta, pw_eps);
  auto g = channels_last(grad);
  if (out != Activation::none) {
    const auto z = pw.normalise(pw_out, pw_mean, pw_var);
    g = activate_backward(out, g, z, z);
  }
  // `g` moves from y to x; each step frees the tensor before it.
  Tensor g_pw_weight, g_pw_gamma, g_pw_beta, g_dw_weight, g_dw_gamma, g_dw_beta;
  std::tie(g, g_pw_gamma, g_pw_beta) = pw.backward(g, pw_out, pw_mean, pw_var);
  {
    auto z = dw.normalise(dw_out, dw_mean, dw_var);
    auto middle = aten::output_serves(mid) ? z : z.clone(); // the pointwise part's input
    activate_(mid, middle);
    std::tie(g, g_pw_weight) = convolution_backward(g, middle, pw_weight, 1, 0, 1, {true, true});
    g = activate_backward(mid, g, z, g);
  }
  std::tie(g, g_dw_gamma, g_dw_beta) = dw.backward(g, dw_out, dw_mean, dw_var);
  std::tie(g, g_dw_weight) =
      convolution_backward(g, channels_last(x), dw_weight, stride, s.padding, s.channels, {x_needed, true});

  return {
      g,
      in_layout_of(dw_weight, g_dw_weight),
      gradient_for(dw_gamma, g_dw_gamma),
      gradient_for(dw_beta, g_dw_beta),
      in_layout_of(pw_weight, g_pw_weight),
      gradient_for(pw_gamma, g_pw_gamma),
      gradient_for(pw_beta, g_pw_beta)};
}

} // namespace aten

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("dw_separable", &aten::dw_separable);
  m.impl("dw_separable_train", &aten::dw_separable_train);
  m.impl("dw_separable_backward", &aten::dw_separable_backward);
}

} // namespace supernet
