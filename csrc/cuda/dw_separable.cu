// dw_separable, its training form and its backward on CUDA.
//
// Inference is one launch of dw_separable_kernels.cuh. Training takes the depthwise convolution with its output's
// statistics in one kernel, and the passes of batch_norm_act; the pointwise part goes to cuDNN. Only x and the two
// outputs before batch norm are kept.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "aten/dw_separable.h"
#include "cuda/batch_norm_act.h"
#include "cuda/depthwise.h"
#include "cuda/dw_separable.h"
#include "cuda/dw_separable_launches.cuh"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor dw_separable_cuda(
    const Tensor& x,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act) {
  constexpr auto op = "dw_separable";
  const auto [s, mid, out] = check_dw_separable(
      x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, mid_act, out_act);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, dw_weight, stride)) {
    return aten::dw_separable(
        x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, mid_act, out_act);
  }
  const auto size = depthwise_size_cuda(op, x, dw_weight, stride);
  check_fused_launch(op, s);

  const auto in = channels_last(x), dw = dw_weight.contiguous(), pw = pw_weight.contiguous();
  const Tensor scales[] = {
      contiguous_floats(dw_scale), contiguous_floats(dw_shift), contiguous_floats(pw_scale),
      contiguous_floats(pw_shift)};
  auto y = at::empty(
      {x.size(0), s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  SUPERNET_DISPATCH_DEPTHWISE(x.scalar_type(), op, [&] {
    cuda::dw_separable<scalar_t>(
        size, static_cast<int>(s.out_channels), in.const_data_ptr<scalar_t>(), dw.const_data_ptr<scalar_t>(),
        scales[0].const_data_ptr<float>(), scales[1].const_data_ptr<float>(), pw.const_data_ptr<scalar_t>(),
        scales[2].const_data_ptr<float>(), scales[3].const_data_ptr<float>(), mid, out, allows_tf32(), y.data_ptr<scalar_t>(),
        c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_train_cuda(
    const Tensor& x,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    double dw_eps,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act) {
  const auto [s, mid, out] = check_dw_separable_train(
      x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act, out_act);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, dw_weight, stride)) {
    return aten::dw_separable_train(
        x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act, out_act);
  }
  CudaNorm dw(x, dw_gamma, dw_beta, dw_eps, mid);
  CudaNorm pw(x, pw_gamma, pw_beta, pw_eps, out);

  Tensor dw_out;
  std::tie(dw_out, dw.mean, dw.var) = depthwise_statistics_cuda(x, nullptr, dw_weight, stride);
  auto [y, pw_out] = pointwise_train_cuda(dw_out, dw, pw_weight, pw);
  return {y, dw_out, pw_out, dw.mean, dw.var, pw.mean, pw.var};
}

// Gradients of x, dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta; those not there are undefined.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_backward_cuda(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& dw_out,
    const Tensor& pw_out,
    const Tensor& dw_weight,
    const OptionalTensor& dw_gamma,
    const OptionalTensor& dw_beta,
    const Tensor& dw_mean,
    const Tensor& dw_var,
    double dw_eps,
    const Tensor& pw_weight,
    const OptionalTensor& pw_gamma,
    const OptionalTensor& pw_beta,
    const Tensor& pw_mean,
    const Tensor& pw_var,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act,
    bool x_needed) {
  const auto [s, mid, out] = check_dw_separable_backward(
      grad, x, dw_out, pw_out, dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, dw_eps, pw_weight, pw_gamma, pw_beta,
      pw_mean, pw_var, pw_eps, stride, mid_act, out_act);
  const c10::cuda::CUDAGuard device(x.device());
  const at::AutoDispatchBelowAutograd guard;
  if (!has_depthwise_cuda(x, dw_weight, stride)) {
    return aten::dw_separable_backward(
        grad, x, dw_out, pw_out, dw_weight, dw_gamma, dw_beta, dw_mean, dw_var, dw_eps, pw_weight, pw_gamma, pw_beta,
        pw_mean, pw_var, pw_eps, stride, mid_act, out_act, x_needed);
  }
  const CudaNorm dw(x, dw_gamma, dw_beta, dw_eps, mid, dw_mean, dw_var);
  const CudaNorm pw(x, pw_gamma, pw_beta, pw_eps, out, pw_mean, pw_var);
  auto [g, g_dw_gamma, g_dw_beta, g_pw_weight, g_pw_gamma, g_pw_beta] =
      pointwise_backward_cuda(grad, dw_out, dw, pw_out, pw_weight, pw);
  auto [grad_x, g_dw_weight] = depthwise_conv2d_backward_cuda(g, x, dw_weight, stride, {x_needed, true});
  return {
      grad_x,
      g_dw_weight,
      gradient_for(dw_gamma, g_dw_gamma),
      gradient_for(dw_beta, g_dw_beta),
      g_pw_weight,
      gradient_for(pw_gamma, g_pw_gamma),
      gradient_for(pw_beta, g_pw_beta)};
}

} // namespace

std::tuple<Tensor, Tensor> pointwise_train_cuda(
    const Tensor& dw_out, const CudaNorm& dw, const Tensor& pw_weight, CudaNorm& pw) {
  const auto pw_out = channels_last(
      at::convolution(dw.apply(dw_out), pw_weight, {}, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1));
  pw.take_statistics(pw_out);
  return {pw.apply(pw_out), pw_out};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pointwise_backward_cuda(
    const Tensor& grad,
    const Tensor& dw_out,
    const CudaNorm& dw,
    const Tensor& pw_out,
    const Tensor& pw_weight,
    const CudaNorm& pw) {
  // `g` moves from the output to dw_out; each step frees the tensor before it.
  auto [g, g_pw_gamma, g_pw_beta] = pw.backward(channels_last(grad), channels_last(pw_out));
  const auto saved = channels_last(dw_out);
  Tensor g_pw_weight, g_dw_gamma, g_dw_beta;
  std::tie(g, g_pw_weight, std::ignore) = at::convolution_backward(
      g, dw.apply(saved), pw_weight, {}, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1, {true, true, false});
  std::tie(g, g_dw_gamma, g_dw_beta) = dw.backward(channels_last(g), saved);
  return {g, g_dw_gamma, g_dw_beta, in_layout_of(pw_weight, g_pw_weight), g_pw_gamma, g_pw_beta};
}

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  m.impl("dw_separable", &dw_separable_cuda);
  m.impl("dw_separable_train", &dw_separable_train_cuda);
  m.impl("dw_separable_backward", &dw_separable_backward_cuda);
}

} // namespace supernet
