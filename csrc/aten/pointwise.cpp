// The form of pointwise_conv2d for every device, through ATen.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <array>

#include "aten/convolution.h"
#include "ops/layout.h"
#include "ops/pointwise.h"

namespace supernet {
namespace {

using at::Tensor;

Tensor pointwise_conv2d(const Tensor& x, const Tensor& weight) {
  check_pointwise_conv2d(x, weight);
  const at::AutoDispatchBelowAutograd guard;
  return channels_last(aten::convolution(channels_last(x), weight, {}, 1, 0, 1));
}

std::tuple<Tensor, Tensor> pointwise_conv2d_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::array<bool, 2> needed) {
  check_pointwise_conv2d_backward(grad, x, weight, needed);
  const at::AutoDispatchBelowAutograd guard;
  const auto [grad_x, grad_weight] =
      aten::convolution_backward(channels_last(grad), channels_last(x), weight, 1, 0, 1, needed);
  return {
      needed[0] ? channels_last(grad_x) : Tensor(), needed[1] ? in_layout_of(weight, grad_weight) : Tensor()};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("pointwise_conv2d", &pointwise_conv2d);
  m.impl("pointwise_conv2d_backward", &pointwise_conv2d_backward);
}

} // namespace supernet
