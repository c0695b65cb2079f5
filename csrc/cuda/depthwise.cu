// depthwise_conv2d on CUDA: launches of depthwise_kernels.cuh and depthwise_weight_kernels.cuh.
#include "cuda/depthwise.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

#include "aten/depthwise.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;

Tensor empty_output(const Tensor& x, const cuda::DepthwiseSize& size) {
  return at::empty(
      {x.size(0), x.size(1), size.out_height, size.out_width},
      x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

Tensor empty_floats(at::IntArrayRef shape, const Tensor& x) {
  return at::empty(shape, x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous));
}

// x and grad channels_last; `norm`, if not null, is what x is read through.
Tensor weight_gradient(
    const cuda::DepthwiseSize& size,
    const Tensor& x,
    const cuda::NormAct<float>* norm,
    const Tensor& grad,
    const Tensor& weight) {
  auto grad_weight = at::empty_like(weight, at::MemoryFormat::Contiguous);
  SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), "depthwise_conv2d", [&] {
    auto partial = empty_floats({cuda::depthwise_weight_parts<scalar_t>(size), weight.numel()}, x);
    cuda::depthwise_weight_gradient<scalar_t, scalar_t>(
        size, x.const_data_ptr<scalar_t>(), norm, grad.const_data_ptr<scalar_t>(), partial.data_ptr<float>(),
        grad_weight.data_ptr<scalar_t>(), c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return in_layout_of(weight, grad_weight);
}

} // namespace

cuda::DepthwiseSize depthwise_size_cuda(const char* op, const Tensor& x, const Tensor& weight, int64_t stride) {
  const auto [out_height, out_width] = depthwise_shape(op, x, weight, stride);
  const auto blocks = x.size(0) * x.size(2) * x.size(3) * ((x.size(1) + 31) / 32);
  TORCH_CHECK(
      blocks <= std::numeric_limits<int32_t>::max(), op, ": x of shape ", x.sizes(), " is more than one launch holds");
  const auto as_int = [](int64_t value) { return static_cast<int>(value); };
  return {
      x.size(0), as_int(x.size(1)), as_int(x.size(2)), as_int(x.size(3)), as_int(out_height), as_int(out_width),
      as_int(weight.size(2)), as_int(stride)};
}

bool has_depthwise_cuda(const Tensor& x, const Tensor& weight, int64_t stride) {
  return x.numel() > 0 && x.scalar_type() != at::kDouble && weight.size(2) > 1 && stride <= 2;
}

Tensor depthwise_conv2d_cuda(const Tensor& x, const Tensor& weight, int64_t stride) {
  constexpr auto op = "depthwise_conv2d";
  const auto size = depthwise_size_cuda(op, x, weight, stride);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, weight, stride)) {
    return aten::depthwise_conv2d(x, weight, stride);
  }
  const auto in = channels_last(x), w = weight.contiguous();
  auto y = empty_output(x, size);
  SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), op, [&] {
    cuda::depthwise_forward<scalar_t>(
        size, in.const_data_ptr<scalar_t>(), nullptr, w.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>(), nullptr,
        c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_statistics_cuda(
    const Tensor& x, const CudaNorm* norm, const Tensor& weight, int64_t stride) {
  constexpr auto op = "depthwise_conv2d";
  const auto size = depthwise_size_cuda(op, x, weight, stride);
  const c10::cuda::CUDAGuard device(x.device());
  const auto through = norm ? norm->arrays<float>() : cuda::NormAct<float>{};
  const auto in = channels_last(x), w = weight.contiguous();
  auto y = empty_output(x, size), mean = empty_floats({x.size(1)}, x), var = at::empty_like(mean);
  SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), op, [&] {
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const auto parts = cuda::depthwise_moment_parts<scalar_t>(size);
    auto moments = empty_floats({parts, 3, x.size(1)}, x);
    cuda::depthwise_forward<scalar_t>(
        size, in.const_data_ptr<scalar_t>(), norm ? &through : nullptr, w.const_data_ptr<scalar_t>(),
        y.data_ptr<scalar_t>(), moments.data_ptr<float>(), stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    cuda::merge_moments<float>(
        moments.const_data_ptr<float>(), parts, x.size(1), mean.data_ptr<float>(), var.data_ptr<float>(), stream);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor> depthwise_conv2d_backward_cuda(
    const Tensor& grad, const Tensor& x, const Tensor& weight, int64_t stride, std::array<bool, 2> needed) {
  constexpr auto op = "depthwise_conv2d_backward";
  check_depthwise_conv2d_backward(grad, x, weight, stride, needed);
  const auto size = depthwise_size_cuda(op, x, weight, stride);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, weight, stride)) {
    return aten::depthwise_conv2d_backward(grad, x, weight, stride, needed);
  }
  const auto in = channels_last(x), g = channels_last(grad), w = weight.contiguous();
  Tensor grad_x;
  if (needed[0]) {
    grad_x = at::empty_like(in);
    SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), op, [&] {
      cuda::depthwise_input_gradient<scalar_t>(
          size, g.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(), nullptr, nullptr,
          grad_x.data_ptr<scalar_t>(), nullptr, c10::cuda::getCurrentCUDAStream());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {grad_x, needed[1] ? weight_gradient(size, in, nullptr, g, weight) : Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> depthwise_norm_backward_cuda(
    const Tensor& grad, const Tensor& x, const CudaNorm& norm, const Tensor& weight, int64_t stride) {
  constexpr auto op = "depthwise_conv2d_backward";
  const auto size = depthwise_size_cuda(op, x, weight, stride);
  const c10::cuda::CUDAGuard device(x.device());
  const auto in = channels_last(x), g = channels_last(grad), w = weight.contiguous();
  const auto through = norm.arrays<float>();
  auto grad_z = at::empty_like(in); // before the activation
  Tensor sums;
  SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), op, [&] {
    sums = empty_floats({cuda::depthwise_gradient_parts<scalar_t>(size), 2, x.size(1)}, x);
    cuda::depthwise_input_gradient<scalar_t>(
        size, g.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(), in.const_data_ptr<scalar_t>(), &through,
        grad_z.data_ptr<scalar_t>(), sums.data_ptr<float>(), c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  auto grad_weight = weight_gradient(size, in, &through, g, weight);
  auto [grad_x, grad_gamma, grad_beta] = norm.backward(grad_z, in, sums);
  return {grad_x, grad_gamma, grad_beta, grad_weight};
}

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  m.impl("depthwise_conv2d", &depthwise_conv2d_cuda);
  m.impl("depthwise_conv2d_backward", &depthwise_conv2d_backward_cuda);
}

} // namespace supernet
