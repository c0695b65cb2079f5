// depth_mix on CUDA: launches of depth_mix_kernels.cuh.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

#include "cuda/depth_mix_kernels.cuh"
#include "ops/depth_mix.h"

namespace supernet {
namespace {

using at::Tensor;

template <typename T>
cuda::Pointers<T, kMaxDepth> pointers(const std::vector<Tensor>& tensors) {
  cuda::Pointers<T, kMaxDepth> out = {};
  for (size_t d = 0; d < tensors.size(); ++d) {
    out.at[d] = static_cast<T*>(tensors[d].data_ptr());
  }
  return out;
}

template <typename T>
void check_launch(int64_t n) {
  TORCH_CHECK(
      cuda::depth_mix_tiles<T>(n) <= std::numeric_limits<int32_t>::max(), "depth_mix: ", n,
      " elements are more than one launch holds");
}

Tensor depth_mix_cuda(at::TensorList xs, const Tensor& p) {
  check_depth_mix(xs, p);
  const c10::cuda::CUDAGuard device(xs[0].device());
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto weights = p.to(accumulate_type(xs[0])).contiguous();
  auto y = at::empty_like(inputs[0]);
  const auto n = y.numel();
  if (n == 0) {
    return y;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, y.scalar_type(), "depth_mix", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    check_launch<scalar_t>(n);
    cuda::depth_mix(
        pointers<const scalar_t>(inputs), weights.const_data_ptr<acc_t>(), y.data_ptr<scalar_t>(), n,
        static_cast<int>(xs.size()), c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

std::tuple<std::vector<Tensor>, Tensor> depth_mix_backward_cuda(
    const Tensor& grad, at::TensorList xs, const Tensor& p) {
  check_depth_mix_backward(grad, xs, p);
  const c10::cuda::CUDAGuard device(xs[0].device());
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto g = same_layout(grad, inputs[0]) ? grad : at::empty_like(inputs[0]).copy_(grad);
  const auto type = accumulate_type(xs[0]);
  const auto weights = p.to(type).contiguous();
  const auto depth = static_cast<int64_t>(xs.size());
  const auto n = g.numel();
  std::vector<Tensor> grad_xs;
  for (const auto& x : inputs) {
    grad_xs.push_back(at::empty_like(x));
  }
  if (n == 0) {
    return {grad_xs, at::zeros({depth}, p.options())};
  }
  auto grad_p = at::empty({depth}, weights.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, g.scalar_type(), "depth_mix_backward", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    check_launch<scalar_t>(n);
    auto partial = at::empty({depth, cuda::depth_mix_tiles<scalar_t>(n)}, weights.options());
    cuda::depth_mix_backward(
        g.const_data_ptr<scalar_t>(), pointers<const scalar_t>(inputs), weights.const_data_ptr<acc_t>(),
        pointers<scalar_t>(grad_xs), grad_p.data_ptr<acc_t>(), partial.data_ptr<acc_t>(), n,
        static_cast<int>(depth), c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {grad_xs, grad_p.to(p.scalar_type())};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  m.impl("depth_mix", &depth_mix_cuda);
  m.impl("depth_mix_backward", &depth_mix_backward_cuda);
}

} // namespace supernet
