// What dw_separable_train and inverted_bottleneck_train share on the CPU: depthwise convolution, batch norm,
// activation, pointwise convolution, batch norm, activation.
//
// Forward: the depthwise convolution takes the statistics of its output as it goes; batch norm and activation
// are applied to a block of pixels in the cache, which the pointwise product then reads, whose output's
// statistics are taken while it is there too; the last pass normalises. Backward computes the normalised
// tensors again, block by block. Of full size are read and written, forward: x, dw_out (twice), pw_out
// (twice), y; backward: grad and pw_out (twice), dw_out (twice), its gradient (twice), x and grad_x.
#pragma once

#include <ATen/ops/empty_like.h>

#include "cpu/pointwise_batch.h"
#include "ops/layout.h"

namespace supernet::cpu {

// A batch norm's parameters and the activation behind it.
struct Norm {
  const std::optional<at::Tensor>&gamma, &beta;
  double eps;
  Activation act;
};

// A batch norm's statistics of the batch.
struct Stats {
  const at::Tensor &mean, &var;
};

template <typename T>
class SeparableBatch {
 public:
  using S = Compute<T>;

  // x, or what is expanded to the depthwise part's input.
  SeparableBatch(
      const at::Tensor& x, const DwSeparableShape& s, const at::Tensor& dw_weight, const at::Tensor& pw_weight,
      int64_t stride)
      : x_(x),
        shape_(s),
        depthwise_(x.size(0), geometry(x, dw_weight, s, stride)),
        pointwise_(s.count, pw_weight),
        dw_weight_(dw_weight.to(accumulate_type(x)).contiguous()) {}

  // (y, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var). The input is read through `prologue` where that is
  // not null; `residual`, of y's shape, is added to y where not null.
  auto forward(
      const T* in, const Affine<S>* prologue, const Norm& dw_norm, const Norm& pw_norm, const T* residual) const {
    const auto& s = shape_;
    auto dw_out = empty_image(x_, s.channels, s), pw_out = empty_image(x_, s.out_channels, s);
    auto y = at::empty_like(pw_out);

    const auto& bands = depthwise_.bands();
    const auto moments = values<S>({bands.count, kMoments, depthwise_.padded()});
    auto* sums = moments.template data_ptr<S>();
    depthwise_.forward(in, prologue, dw_weight_.const_data_ptr<S>(), dw_out.template data_ptr<T>(), sums);
    const auto [dw_mean, dw_var] = merge_moments(sums, bands.count, s.channels, [&](int64_t b) {
      const auto band = bands.band(b);
      return (band.end - band.begin) * s.width;
    });

    const BatchNorm<S> dw(dw_mean, dw_var, dw_norm.gamma, dw_norm.beta, dw_norm.eps, s.count);
    const auto middle = dw.apply(dw_norm.act);
    T* out = pw_out.template data_ptr<T>();
    const auto [pw_mean, pw_var] = pointwise_.forward_moments(dw_out.template const_data_ptr<T>(), &middle, out);

    const BatchNorm<S> pw(pw_mean, pw_var, pw_norm.gamma, pw_norm.beta, pw_norm.eps, s.count);
    T* to = y.template data_ptr<T>();
    pointwise_.blocks().each(Order::ascending, [&](int64_t, int64_t begin, int64_t n) {
      const auto at = begin * s.out_channels;
      row_kernels<T, S>().normalise_store(
          out + at, n, s.out_channels, pw.apply(pw_norm.act), residual ? residual + at : nullptr, to + at);
    });
    return std::tuple(y, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var);
  }

  // Gradients of (dw_weight, dw_gamma, dw_beta, pw_weight, pw_gamma, pw_beta), and the input's into grad_x
  // where that is not null; `finish` as in DepthwiseBatch::backward.
  template <typename G, class Finish>
  auto backward(
      const at::Tensor& grad, const T* in, const Affine<S>* prologue, const at::Tensor& dw_out,
      const at::Tensor& pw_out, const Norm& dw_norm, const Stats& dw_stats, const Norm& pw_norm,
      const Stats& pw_stats, G* grad_x, const Finish& finish) const {
    const auto& s = shape_;
    const auto& rows = row_kernels<T, S>();
    const auto& blocks = pointwise_.blocks();
    const BatchNorm<S> dw(dw_stats.mean, dw_stats.var, dw_norm.gamma, dw_norm.beta, dw_norm.eps, s.count);
    const BatchNorm<S> pw(pw_stats.mean, pw_stats.var, pw_norm.gamma, pw_norm.beta, pw_norm.eps, s.count);
    NormGradients dw_grads(s.channels, x_), pw_grads(s.out_channels, x_);
    const auto dw_saved = channels_last(dw_out), pw_saved = channels_last(pw_out), dy = channels_last(grad);
    const T *d = dw_saved.template const_data_ptr<T>(), *p = pw_saved.template const_data_ptr<T>();
    const T* g = dy.template const_data_ptr<T>();

    // Through the pointwise part: `g_z` is the gradient behind the depthwise part's batch norm.
    const auto abc = reduce_gradient(g, p, blocks, pw, pw_norm.act, pw_grads);
    const auto z = values<S>({s.count * s.channels}), sums = values<S>({blocks.count, 2 * dw.padded});
    auto *g_z = z.template data_ptr<S>(), *dw_sums = sums.template data_ptr<S>();
    const auto middle = dw.apply(dw_norm.act);
    const auto grad_pw = pointwise_.backward(
        [&](int64_t begin, int64_t n, S* out) {
          const auto at = begin * s.out_channels;
          rows.input_grad(g + at, p + at, n, s.out_channels, pw.apply(pw_norm.act), abc.data(), out);
        },
        d, &middle, nullptr, g_z, [&](int64_t b, int64_t begin, int64_t n, S* out) {
          rows.mask_and_reduce_grad(
              out, d + begin * s.channels, n, s.channels, middle, dw.mean.data(), dw_sums + b * 2 * dw.padded);
        });

    // Through the depthwise part.
    const auto dw_abc =
        dw.gradient(dw_sums, blocks.count, dw_grads.gamma.template data_ptr<S>(), dw_grads.beta.template data_ptr<S>());
    const auto linear = dw.apply(Activation::none);
    const auto load = [&](int64_t first, int64_t count, int64_t begin, int64_t end, int64_t& readable) {
      const auto at = (first * s.height + begin) * s.width, pixels = count * (end - begin) * s.width;
      auto* buffer = scratch<S>(Use::gradient, pixels * s.channels);
      rows.input_grad_of_values(
          g_z + at * s.channels, d + at * s.channels, pixels, s.channels, linear, dw_abc.data(), buffer);
      readable = 0;
      return Band<const S>{buffer, begin};
    };
    auto grad_dw = at::empty(dw_weight_.sizes(), dw_weight_.options());
    depthwise_.backward(
        load, in, prologue, dw_weight_.const_data_ptr<S>(), grad_x, grad_dw.template data_ptr<S>(), finish);
    return std::tuple(
        grad_dw, gradient_for(dw_norm.gamma, dw_grads.gamma), gradient_for(dw_norm.beta, dw_grads.beta), grad_pw,
        gradient_for(pw_norm.gamma, pw_grads.gamma), gradient_for(pw_norm.beta, pw_grads.beta));
  }

  // Bands of backward, for `finish`.
  const Bands& groups() const {
    return depthwise_.groups();
  }

 private:
  const at::Tensor& x_;
  DwSeparableShape shape_;
  DepthwiseBatch<T> depthwise_;
  PointwiseBatch<T> pointwise_;
  at::Tensor dw_weight_; // as S, contiguous
};

} // namespace supernet::cpu
