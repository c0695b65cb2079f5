// depthwise_conv2d on the CPU.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>

#include "cpu/depthwise_batch.h"
#include "ops/depthwise.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;

cpu::DepthwiseShape geometry(
    const Tensor& x, const Tensor& weight, std::pair<int64_t, int64_t> out, int64_t stride) {
  const auto k = weight.size(2);
  return {x.size(1), x.size(2), x.size(3), out.first, out.second, k, stride, k / 2, false};
}

Tensor depthwise_conv2d_cpu(const Tensor& x, const Tensor& weight, int64_t stride) {
  const auto size = check_depthwise_conv2d(x, weight, stride);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  auto y = at::empty(
      {x.size(0), x.size(1), size.first, size.second},
      x.options().memory_format(at::MemoryFormat::ChannelsLast));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "depthwise_conv2d", [&] {
    using S = cpu::Compute<scalar_t>;
    const auto w = weight.to(accumulate_type(x)).contiguous();
    const cpu::DepthwiseBatch<scalar_t> batch(x.size(0), geometry(x, weight, size, stride));
    batch.forward(
        in.const_data_ptr<scalar_t>(), nullptr, w.const_data_ptr<S>(), y.data_ptr<scalar_t>(), nullptr);
  });
  return y;
}

std::tuple<Tensor, Tensor> depthwise_conv2d_backward_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& weight, int64_t stride, std::array<bool, 2> needed) {
  const auto size = check_depthwise_conv2d_backward(grad, x, weight, stride, needed);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x), g = channels_last(grad);
  const auto w = weight.to(accumulate_type(x)).contiguous();
  auto grad_x = needed[0] ? at::empty_like(in) : Tensor();
  auto grad_w = needed[1] ? at::empty_like(w) : Tensor();
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "depthwise_conv2d_backward", [&] {
    using S = cpu::Compute<scalar_t>;
    const cpu::DepthwiseBatch<scalar_t> batch(x.size(0), geometry(x, weight, size, stride));
    batch.backward(
        batch.gradient_rows(g.const_data_ptr<scalar_t>()),
        in.const_data_ptr<scalar_t>(),
        nullptr,
        w.const_data_ptr<S>(),
        needed[0] ? grad_x.data_ptr<scalar_t>() : nullptr,
        needed[1] ? grad_w.data_ptr<S>() : nullptr,
        cpu::nothing_more);
  });
  if (needed[1]) {
    grad_w = in_layout_of(weight, grad_w.to(weight.scalar_type()));
  }
  return {grad_x, grad_w};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("depthwise_conv2d", &depthwise_conv2d_cpu);
  m.impl("depthwise_conv2d_backward", &depthwise_conv2d_backward_cpu);
}

} // namespace supernet
