// The form of depthwise_conv2d for every device, through ATen.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>

#include "aten/convolution.h"
#include "aten/depthwise.h"
#include "ops/depthwise.h"
#include "ops/layout.h"

namespace supernet {
namespace aten {

using at::Tensor;

Tensor depthwise_conv2d(const Tensor& x, const Tensor& weight, int64_t stride) {
  const auto [height, width] = check_depthwise_conv2d(x, weight, stride);
  const at::AutoDispatchBelowAutograd guard;
  const auto channels = x.size(1), padding = weight.size(2) / 2;
  if (x.size(0) == 0) {
    return at::empty({0, channels, height, width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  }
  return channels_last(convolution(channels_last(x), weight, {}, stride, padding, channels));
}

std::tuple<Tensor, Tensor> depthwise_conv2d_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, int64_t stride, std::array<bool, 2> needed) {
  check_depthwise_conv2d_backward(grad, x, weight, stride, needed);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  if (x.size(0) == 0) {
    return {needed[0] ? at::zeros_like(in) : Tensor(), needed[1] ? at::zeros_like(weight) : Tensor()};
  }
  const auto [grad_x, grad_weight] =
      convolution_backward(channels_last(grad), in, weight, stride, weight.size(2) / 2, x.size(1), needed);
  return {
      needed[0] ? channels_last(grad_x) : Tensor(),
      needed[1] ? in_layout_of(weight, grad_weight) : Tensor()};
}

} // namespace aten

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("depthwise_conv2d", &aten::depthwise_conv2d);
  m.impl("depthwise_conv2d_backward", &aten::depthwise_conv2d_backward);
}

} // namespace supernet
