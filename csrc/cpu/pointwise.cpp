// pointwise_conv2d on the CPU.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>

#include "cpu/pointwise_batch.h"
#include "ops/layout.h"
#include "ops/pointwise.h"

namespace supernet {
namespace {

using at::Tensor;

int64_t pixels(const Tensor& x) {
  return x.size(0) * x.size(2) * x.size(3);
}

Tensor pointwise_conv2d_cpu(const Tensor& x, const Tensor& weight) {
  check_pointwise_conv2d(x, weight);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  auto y = at::empty(
      {x.size(0), weight.size(0), x.size(2), x.size(3)},
      x.options().memory_format(at::MemoryFormat::ChannelsLast));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "pointwise_conv2d", [&] {
    cpu::PointwiseBatch<scalar_t>(pixels(x), weight)
        .forward(in.const_data_ptr<scalar_t>(), nullptr, y.data_ptr<scalar_t>(), cpu::nothing_more);
  });
  return y;
}

std::tuple<Tensor, Tensor> pointwise_conv2d_backward_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::array<bool, 2> needed) {
  check_pointwise_conv2d_backward(grad, x, weight, needed);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x), g = channels_last(grad);
  auto grad_x = needed[0] ? at::empty_like(in) : Tensor();
  const auto grad_weight = AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "pointwise_conv2d_backward", [&] {
    using S = cpu::Compute<scalar_t>;
    const auto* from = g.const_data_ptr<scalar_t>();
    const auto load = [&](int64_t begin, int64_t n, S* out) {
      cpu::row_kernels<scalar_t, S>().load(from + begin * weight.size(0), n * weight.size(0), out);
    };
    return cpu::PointwiseBatch<scalar_t>(pixels(x), weight)
        .backward(
            load, in.const_data_ptr<scalar_t>(), nullptr, nullptr,
            needed[0] ? grad_x.data_ptr<scalar_t>() : nullptr, cpu::nothing_more);
  });
  return {grad_x, needed[1] ? in_layout_of(weight, grad_weight.to(weight.scalar_type())) : Tensor()};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("pointwise_conv2d", &pointwise_conv2d_cpu);
  m.impl("pointwise_conv2d_backward", &pointwise_conv2d_backward_cpu);
}

} // namespace supernet
