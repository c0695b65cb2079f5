// The form of depth_mix for every device, through ATen.
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "ops/depth_mix.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;

Tensor depth_mix(at::TensorList xs, const Tensor& p) {
  check_depth_mix(xs, p);
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto type = accumulate_type(xs[0]);
  const auto weights = p.to(type).unbind();
  auto y = at::zeros_like(inputs[0], inputs[0].options().dtype(type));
  for (size_t d = 0; d < inputs.size(); ++d) {
    // Whatever it holds, an entry that is off leaves the sum as it is.
    y = at::where(weights[d] == 0, y, at::addcmul(y, inputs[d].to(type), weights[d]));
  }
  return y.to(xs[0].scalar_type());
}

std::tuple<std::vector<Tensor>, Tensor> depth_mix_backward(const Tensor& grad, at::TensorList xs, const Tensor& p) {
  check_depth_mix_backward(grad, xs, p);
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto type = accumulate_type(xs[0]);
  const auto weights = p.to(type).unbind();
  const auto g = in_layout_of(inputs[0], grad).to(type);
  std::vector<Tensor> grad_xs, grad_p;
  for (size_t d = 0; d < inputs.size(); ++d) {
    grad_xs.push_back((g * weights[d]).masked_fill_(weights[d] == 0, 0).to(grad.scalar_type()));
    grad_p.push_back((g * inputs[d].to(type)).sum());
  }
  return {grad_xs, at::stack(grad_p).to(p.scalar_type())};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("depth_mix", &depth_mix);
  m.impl("depth_mix_backward", &depth_mix_backward);
}

} // namespace supernet
