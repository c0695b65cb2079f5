// inverted_bottleneck, its training form and its backward on CUDA.
//
// Inference is one launch of inverted_bottleneck_kernels.cuh. In training the expansion goes through cuDNN, and the
// depthwise kernels, forward and backward, read its output through batch norm and activation; what follows is
// dw_separable's. Only x and the three outputs before batch norm are kept.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "aten/inverted_bottleneck.h"
#include "cuda/batch_norm_act.h"
#include "cuda/depthwise.h"
#include "cuda/dw_separable.h"
#include "cuda/inverted_bottleneck_launches.cuh"
#include "ops/inverted_bottleneck.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Tensor inverted_bottleneck_cuda(
    const Tensor& x,
    const Tensor& expand_weight,
    const Tensor& expand_scale,
    const Tensor& expand_shift,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    bool residual,
    int64_t stride,
    std::string_view act) {
  constexpr auto op = "inverted_bottleneck";
  const auto call = check_inverted_bottleneck(
      x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift,
      residual, stride, act);
  const auto& s = call.shape;
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  const auto as_int = [](int64_t value) { return static_cast<int>(value); };
  Tensor y;
  if (has_depthwise_cuda(x, dw_weight, stride)) {
    check_fused_launch(op, s);
    const cuda::DepthwiseSize size = {
        x.size(0),        as_int(s.channels), as_int(x.size(2)),         as_int(x.size(3)),
        as_int(s.height), as_int(s.width),    as_int(dw_weight.size(2)), as_int(stride)};
    SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), op, [&] {
      const auto plan =
          cuda::inverted_bottleneck_plan<scalar_t>(size, as_int(x.size(1)), as_int(s.out_channels));
      if (!plan) {
        return;
      }
      const auto in = channels_last(x);
      const Tensor weights[] = {expand_weight.contiguous(), dw_weight.contiguous(), pw_weight.contiguous()};
      const Tensor scales[] = {
          contiguous_floats(expand_scale), contiguous_floats(expand_shift), contiguous_floats(dw_scale),
          contiguous_floats(dw_shift),     contiguous_floats(pw_scale),     contiguous_floats(pw_shift)};
      const auto* from = in.const_data_ptr<scalar_t>();
      const auto weight = [&](int i) { return weights[i].const_data_ptr<scalar_t>(); };
      const auto values = [&](int i) { return scales[i].const_data_ptr<float>(); };
      y = at::empty(
          {x.size(0), s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
      cuda::inverted_bottleneck<scalar_t>(
          *plan,
          {from, weight(0), values(0), values(1), weight(1), values(2), values(3), weight(2), values(4), values(5),
           residual ? from : nullptr, y.data_ptr<scalar_t>()},
          call.act, allows_tf32(), c10::cuda::getCurrentCUDAStream());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  if (!y.defined()) { // no kernel of that size, or x too wide for shared memory
    return aten::inverted_bottleneck(
        x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift,
        residual, stride, act);
  }
  return y;
}

Outputs inverted_bottleneck_train_cuda(
    const Tensor& x,
    const Tensor& expand_weight,
    const OptionalTensor& expand_gamma,
    const OptionalTensor& expand_beta,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act) {
  const auto call = check_inverted_bottleneck_train(
      x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta, eps,
      residual, stride, act);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, dw_weight, stride)) {
    return aten::inverted_bottleneck_train(
        x, expand_weight, expand_gamma, expand_beta, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta, eps,
        residual, stride, act);
  }
  CudaNorm expand(x, expand_gamma, expand_beta, eps, call.act), dw(x, dw_gamma, dw_beta, eps, call.act);
  CudaNorm pw(x, pw_gamma, pw_beta, eps, Activation::none);
  const auto in = channels_last(x);
  const auto expand_out =
      channels_last(at::convolution(in, expand_weight, {}, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1));
  expand.take_statistics(expand_out);
  Tensor dw_out;
  std::tie(dw_out, dw.mean, dw.var) = depthwise_statistics_cuda(expand_out, &expand, dw_weight, stride);
  auto [y, pw_out] = pointwise_train_cuda(dw_out, dw, pw_weight, pw);
  return {
      residual ? y.add_(in) : y, expand_out, dw_out, pw_out, expand.mean, expand.var, dw.mean, dw.var, pw.mean, pw.var};
}

// Gradients of x and of weight, gamma and beta of the three convolutions; those not there are undefined.
Outputs inverted_bottleneck_backward_cuda(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& expand_out,
    const Tensor& dw_out,
    const Tensor& pw_out,
    const Tensor& expand_weight,
    const OptionalTensor& expand_gamma,
    const OptionalTensor& expand_beta,
    const Tensor& expand_mean,
    const Tensor& expand_var,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    const Tensor& dw_mean,
    const Tensor& dw_var,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    const Tensor& pw_mean,
    const Tensor& pw_var,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act,
    bool x_needed) {
  const auto call = check_inverted_bottleneck_backward(
      grad, x, expand_out, dw_out, pw_out, expand_weight, expand_gamma, expand_beta, expand_mean, expand_var, dw_weight,
      dw_gamma, dw_beta, dw_mean, dw_var, pw_weight, pw_gamma, pw_beta, pw_mean, pw_var, eps, residual, stride, act);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, dw_weight, stride)) {
    return aten::inverted_bottleneck_backward(
        grad, x, expand_out, dw_out, pw_out, expand_weight, expand_gamma, expand_beta, expand_mean, expand_var,
        dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, pw_weight, pw_gamma, pw_beta, pw_mean, pw_var, eps, residual,
        stride, act, x_needed);
  }
  const CudaNorm expand(x, expand_gamma, expand_beta, eps, call.act, expand_mean, expand_var);
  const CudaNorm dw(x, dw_gamma, dw_beta, eps, call.act, dw_mean, dw_var);
  const CudaNorm pw(x, pw_gamma, pw_beta, eps, Activation::none, pw_mean, pw_var);
  const auto dy = channels_last(grad);
  auto [g, g_dw_gamma, g_dw_beta, g_pw_weight, g_pw_gamma, g_pw_beta] =
      pointwise_backward_cuda(dy, dw_out, dw, pw_out, pw_weight, pw);
  Tensor g_gamma, g_beta, g_dw_weight, grad_x, g_weight;
  std::tie(g, g_gamma, g_beta, g_dw_weight) = depthwise_norm_backward_cuda(g, expand_out, expand, dw_weight, stride);
  std::tie(grad_x, g_weight, std::ignore) = at::convolution_backward(
      g, channels_last(x), expand_weight, {}, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1, {x_needed, true, false});
  if (x_needed) {
    grad_x = channels_last(residual ? grad_x.add_(dy) : grad_x);
  }
  return {
      grad_x,
      in_layout_of(expand_weight, g_weight),
      gradient_for(expand_gamma, g_gamma),
      gradient_for(expand_beta, g_beta),
      g_dw_weight,
      gradient_for(dw_gamma, g_dw_gamma),
      gradient_for(dw_beta, g_dw_beta),
      g_pw_weight,
      gradient_for(pw_gamma, g_pw_gamma),
      gradient_for(pw_beta, g_pw_beta)};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  m.impl("inverted_bottleneck", &inverted_bottleneck_cuda);
  m.impl("inverted_bottleneck_train", &inverted_bottleneck_train_cuda);
  m.impl("inverted_bottleneck_backward", &inverted_bottleneck_backward_cuda);
}

} // namespace supernet
