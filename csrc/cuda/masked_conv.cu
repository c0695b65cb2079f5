// masked_conv2d on CUDA: cuDNN, or the depthwise kernels, on the active part of the weight, between two kernels of
// masked_conv_kernels.cuh that apply the coefficients and give their gradient.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "aten/masked_conv.h"
#include "cuda/masked_conv_kernels.cuh"
#include "ops/masked_conv.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

cuda::WeightSize weight_size(const Tensor& weight, const MaskedConvShape& s) {
  return {weight.size(0), weight.size(1), weight.size(2), s.out_channels, s.weight_in};
}

cuda::WeightStrides strides(const Tensor& weight) {
  return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
}

// The coefficients in the type that kernels compute in.
OptionalTensor computed(const OptionalTensor& coefficients, const Tensor& x) {
  return coefficients.has_value() ? OptionalTensor(coefficients->to(accumulate_type(x)).contiguous()) : std::nullopt;
}

// The active weight, scaled by the coefficients.
Tensor effective_weight(const Tensor& weight, const OptionalTensor& coefficients, const MaskedConvShape& s) {
  const auto active = aten::active_weight(weight, s);
  if (!coefficients.has_value()) {
    return active;
  }
  auto scaled = at::empty(active.sizes(), weight.options().memory_format(at::MemoryFormat::ChannelsLast));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, weight.scalar_type(), "masked_conv2d", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    cuda::scale_weight<scalar_t, acc_t>(
        weight_size(weight, s), strides(weight), weight.const_data_ptr<scalar_t>(),
        coefficients->const_data_ptr<acc_t>(), scaled.data_ptr<scalar_t>(), c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return scaled;
}

Tensor masked_conv2d_cuda(
    const Tensor& x,
    const Tensor& weight,
    const OptionalTensor& coefficients,
    std::optional<int64_t> out_channels,
    int64_t stride,
    int64_t padding,
    int64_t groups) {
  const auto s = check_masked_conv2d(x, weight, coefficients, out_channels, stride, padding, groups);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (x.size(0) == 0) {
    return at::empty(
        {0, s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  }
  return aten::active_convolution(x, effective_weight(weight, computed(coefficients, x), s), s, stride, padding);
}

// Gradients of x, weight and coefficients; those not needed are undefined tensors.
std::tuple<Tensor, Tensor, Tensor> masked_conv2d_backward_cuda(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& weight,
    const OptionalTensor& coefficients,
    int64_t stride,
    int64_t padding,
    int64_t groups,
    std::array<bool, 3> needed) {
  const auto s = check_masked_conv2d_backward(grad, x, weight, coefficients, stride, padding, groups, needed);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  const auto c = computed(coefficients, x);
  needed[2] = needed[2] && c.has_value();

  auto [grad_x, grad_active] = aten::active_convolution_backward(
      grad, x, effective_weight(weight, c, s), s, stride, padding, {needed[0], needed[1] || needed[2]});
  if (!needed[1] && !needed[2]) {
    return {grad_x, Tensor(), Tensor()};
  }
  // The kernel reads the weight and writes its gradient at the same offsets.
  const auto w = weight.is_non_overlapping_and_dense() ? weight : weight.contiguous();
  auto grad_weight = needed[1] ? at::empty_like(w) : Tensor();
  auto grad_coefficients = needed[2] ? at::empty_like(*c) : Tensor();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "masked_conv2d_backward", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    cuda::masked_weight_gradient<scalar_t, acc_t>(
        weight_size(w, s), strides(grad_active), strides(w), grad_active.template const_data_ptr<scalar_t>(),
        w.const_data_ptr<scalar_t>(), c.has_value() ? c->const_data_ptr<acc_t>() : nullptr,
        needed[1] ? grad_weight.data_ptr<scalar_t>() : nullptr,
        needed[2] ? grad_coefficients.data_ptr<acc_t>() : nullptr, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  if (needed[2]) {
    grad_coefficients = grad_coefficients.to(coefficients->scalar_type());
  }
  return {grad_x, grad_weight, grad_coefficients};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  m.impl("masked_conv2d", &masked_conv2d_cuda);
  m.impl("masked_conv2d_backward", &masked_conv2d_backward_cuda);
}

} // namespace supernet
