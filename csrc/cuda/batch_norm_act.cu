// batch_norm_act_train and its backward on CUDA: launches of batch_norm_act_kernels.cuh.
#include "cuda/batch_norm_act.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/batch_norm_act_kernels.cuh"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

int64_t pixels_of(const Tensor& x) {
  return x.numel() / x.size(1);
}

Tensor empty_values(at::IntArrayRef shape, const Tensor& x) {
  return at::empty(shape, x.options().dtype(accumulate_type(x)).memory_format(at::MemoryFormat::Contiguous));
}

} // namespace

CudaNorm::CudaNorm(
    const Tensor& x,
    const OptionalTensor& gamma,
    const OptionalTensor& beta,
    double eps,
    Activation act,
    const Tensor& mean,
    const Tensor& var)
    : eps(eps), act(act) {
  if (gamma.has_value()) {
    this->gamma = gamma->to(accumulate_type(x)).contiguous();
    this->beta = beta->to(accumulate_type(x)).contiguous();
  }
  if (mean.defined()) {
    this->mean = mean.contiguous();
    this->var = var.contiguous();
  }
}

void CudaNorm::take_statistics(const Tensor& x) {
  const auto channels = x.size(1);
  mean = empty_values({channels}, x);
  var = empty_values({channels}, x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    auto moments = empty_values({cuda::norm_parts<scalar_t>(pixels_of(x), channels), 3, channels}, x);
    cuda::norm_statistics<scalar_t, acc_t>(
        x.const_data_ptr<scalar_t>(), moments.data_ptr<acc_t>(), mean.data_ptr<acc_t>(), var.data_ptr<acc_t>(),
        pixels_of(x), channels, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

Tensor CudaNorm::apply(const Tensor& x) const {
  auto y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    cuda::norm_act<scalar_t, acc_t>(
        x.const_data_ptr<scalar_t>(), arrays<acc_t>(), y.data_ptr<scalar_t>(), pixels_of(x), x.size(1),
        c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> CudaNorm::backward(
    const Tensor& grad, const Tensor& x, const Tensor& sums) const {
  const auto channels = x.size(1), pixels = pixels_of(x);
  auto grad_x = at::empty_like(x);
  Tensor grad_gamma, grad_beta;
  if (gamma.has_value()) {
    grad_gamma = at::empty_like(*gamma);
    grad_beta = at::empty_like(*beta);
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    auto norm = arrays<acc_t>();
    auto all = empty_values({2, channels}, x);
    const auto *g = grad.const_data_ptr<scalar_t>(), *in = x.const_data_ptr<scalar_t>();
    auto *total = all.data_ptr<acc_t>(), *to_gamma = gamma.has_value() ? grad_gamma.data_ptr<acc_t>() : nullptr,
         *to_beta = gamma.has_value() ? grad_beta.data_ptr<acc_t>() : nullptr;
    auto* to = grad_x.data_ptr<scalar_t>();
    if (sums.defined()) {
      norm.act = Activation::none;
      cuda::norm_act_gradient<scalar_t, acc_t>(
          g, in, norm, sums.const_data_ptr<acc_t>(), sums.size(0), total, to, to_gamma, to_beta, pixels, channels,
          stream);
    } else {
      auto partial = empty_values({cuda::norm_parts<scalar_t>(pixels, channels), 2, channels}, x);
      cuda::norm_act_backward<scalar_t, acc_t>(
          g, in, norm, partial.data_ptr<acc_t>(), total, to, to_gamma, to_beta, pixels, channels, stream);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {grad_x, grad_gamma, grad_beta};
}

namespace {

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_train_cuda(
    const Tensor& x, const OptionalTensor& gamma, const OptionalTensor& beta, double eps, std::string_view act) {
  const auto activation = check_batch_norm_act_train(x, gamma, beta, eps, act).act;
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  CudaNorm norm(x, gamma, beta, eps, activation);
  const auto in = channels_last(x);
  norm.take_statistics(in);
  return {norm.apply(in), norm.mean, norm.var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cuda(
    const Tensor& grad,
    const Tensor& x,
    const OptionalTensor& gamma,
    const OptionalTensor& beta,
    const Tensor& mean,
    const Tensor& var,
    double eps,
    std::string_view act) {
  const auto activation = check_batch_norm_act_backward(grad, x, gamma, beta, mean, var, eps, act).act;
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  const CudaNorm norm(x, gamma, beta, eps, activation, mean, var);
  auto [grad_x, grad_gamma, grad_beta] = norm.backward(channels_last(grad), channels_last(x));
  return {grad_x, gradient_for(gamma, grad_gamma), gradient_for(beta, grad_beta)};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  m.impl("batch_norm_act_train", &batch_norm_act_train_cuda);
  m.impl("batch_norm_act_backward", &batch_norm_act_backward_cuda);
}

} // namespace supernet
