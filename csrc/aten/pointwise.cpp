// The form of pointwise_conv2d for every device, through ATen.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <torch/library.h>

#include <array>

#include "ops/layout.h"
#include "ops/pointwise.h"

namespace supernet {
namespace {

using at::Tensor;

Tensor pointwise_conv2d(const Tensor& x, const Tensor& weight) {
  check_pointwise("pointwise_conv2d", x, weight);
  const at::AutoDispatchBelowAutograd guard;
  return channels_last(
      at::convolution(channels_last(x), weight, {}, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1));
}

std::tuple<Tensor, Tensor> pointwise_conv2d_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::array<bool, 2> needed) {
  constexpr auto op = "pointwise_conv2d_backward";
  check_pointwise(op, x, weight);
  check_grad(op, grad, {x.size(0), weight.size(0), x.size(2), x.size(3)}, x);
  const at::AutoDispatchBelowAutograd guard;
  auto [grad_x, grad_weight, unused] = at::convolution_backward(
      channels_last(grad), channels_last(x), weight, {}, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1,
      {needed[0], needed[1], false});
  return {
      needed[0] ? channels_last(grad_x) : Tensor(), needed[1] ? in_layout_of(weight, grad_weight) : Tensor()};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("pointwise_conv2d", &pointwise_conv2d);
  m.impl("pointwise_conv2d_backward", &pointwise_conv2d_backward);
}

} // namespace supernet
