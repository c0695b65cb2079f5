// Batch norms over [pixels, channels] on the CPU: from sums that the kernels take per block of pixels to the
// vectors that they apply. Blocks follow from the sizes alone and are added up in one order, in double:
// results do not depend on the number of threads.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "cpu/depthwise_batch.h"
#include "ops/batch_norm_act.h"

namespace supernet::cpu {

// A pass that runs against the one before begins with what that one left in the cache.
enum class Order { ascending, descending };

// Pixels cut into blocks whose rows of `width` values stay in the L2 cache. Even blocks suit every matrix
// tile.
struct PixelBlocks {
  int64_t pixels, size, count;

  PixelBlocks(int64_t pixels, int64_t width) : pixels(pixels) {
    constexpr int64_t kTiles = 168; // a multiple of every tile's rows
    constexpr int64_t kValues = 128 * 1024;
    size = std::clamp<int64_t>(kValues / (width * kTiles), 1, 4) * kTiles;
    count = ceil_div(pixels, size);
  }

  int64_t begin(int64_t block) const {
    return block * size;
  }
  int64_t length(int64_t block) const {
    return std::min(size, pixels - block * size);
  }

  // Calls f(block, its first pixel, its pixels) for all, in parallel.
  template <class F>
  void each(Order order, const F& f) const {
    at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
      for (auto i = from; i < to; ++i) {
        const auto b = order == Order::ascending ? i : count - 1 - i;
        f(b, begin(b), length(b));
      }
    });
  }
};

// One batch norm with the statistics of its batch, as vectors padded to whole vectors.
template <typename S>
struct BatchNorm {
  int64_t channels, padded;
  double count; // values per channel
  std::vector<S> mean, invstd, scale, shift;

  // gamma and beta in S's type or undefined.
  BatchNorm(
      const at::Tensor& batch_mean,
      const at::Tensor& batch_var,
      const std::optional<at::Tensor>& gamma,
      const std::optional<at::Tensor>& beta,
      double eps,
      int64_t pixels)
      : channels(batch_mean.numel()),
        padded(round_up(channels, kernels<S>().vector)),
        count(static_cast<double>(pixels)),
        mean(padded),
        invstd(padded),
        scale(padded),
        shift(padded) {
    const auto type = batch_mean.scalar_type();
    const auto g = gamma.has_value() ? gamma->to(type).contiguous() : at::Tensor();
    const auto b = beta.has_value() ? beta->to(type).contiguous() : at::Tensor();
    const auto m = batch_mean.contiguous(), v = batch_var.contiguous();
    for (int64_t c = 0; c < channels; ++c) {
      const double mu = m.template const_data_ptr<S>()[c];
      const double inv = 1 / std::sqrt(v.template const_data_ptr<S>()[c] + eps);
      const double factor = inv * (g.defined() ? g.template const_data_ptr<S>()[c] : 1);
      mean[c] = static_cast<S>(mu);
      invstd[c] = static_cast<S>(inv);
      scale[c] = static_cast<S>(factor);
      shift[c] = static_cast<S>((b.defined() ? b.template const_data_ptr<S>()[c] : 0) - mu * factor);
    }
  }

  Affine<S> apply(Activation act) const {
    return {scale.data(), shift.data(), act};
  }

  // What `input_grad` multiplies with, [3][padded], from the sums that `reduce_grad` took of each block:
  // grad_x = scale (g - mean(g) - (x - mean) invstd^2 mean(g (x - mean))).
  // The sums themselves, which are the gradients of beta and gamma / invstd, go to grad_beta and grad_gamma.
  std::vector<S> gradient(const S* sums, int64_t blocks, S* grad_gamma, S* grad_beta) const {
    std::vector<double> total(2 * padded);
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t c = 0; c < 2 * padded; ++c) {
        total[c] += sums[block * 2 * padded + c];
      }
    }
    std::vector<S> abc(3 * padded);
    for (int64_t c = 0; c < channels; ++c) {
      const double g = total[c], gx = total[padded + c], inv = invstd[c], a = scale[c];
      const double b = -a * inv * inv * gx / count;
      abc[c] = static_cast<S>(a);
      abc[padded + c] = static_cast<S>(b);
      abc[2 * padded + c] = static_cast<S>(-a * g / count - b * mean[c]);
      if (grad_gamma) {
        grad_gamma[c] = static_cast<S>(gx * inv);
        grad_beta[c] = static_cast<S>(g);
      }
    }
    return abc;
  }
};

// Mean and biased variance per channel from the moments of blocks (sizes given by length(block)), merged as
// Chan, Golub and LeVeque do (1979).
template <typename S, class Length>
std::tuple<at::Tensor, at::Tensor> merge_moments(
    const S* moments, int64_t blocks, int64_t channels, const Length& length) {
  const auto padded = round_up(channels, kernels<S>().vector);
  std::vector<double> mean(channels), m2(channels);
  double total = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const S* shift = moments + block * kMoments * padded;
    const S *sum = shift + padded, *squares = sum + padded;
    const double n = static_cast<double>(length(block)), share = n / (total + n), between = total * share;
    for (int64_t c = 0; c < channels; ++c) {
      const double offset = sum[c] / n, delta = shift[c] + offset - mean[c];
      m2[c] += squares[c] - sum[c] * offset + delta * delta * between;
      mean[c] += delta * share;
    }
    total += n;
  }
  auto out_mean = values<S>({channels}), out_var = values<S>({channels});
  for (int64_t c = 0; c < channels; ++c) {
    out_mean.template data_ptr<S>()[c] = static_cast<S>(mean[c]);
    out_var.template data_ptr<S>()[c] = static_cast<S>(std::max(m2[c], 0.0) / total);
  }
  return {out_mean, out_var};
}

// Mean and variance of [pixels, channels].
template <typename T>
std::tuple<at::Tensor, at::Tensor> batch_moments(const T* x, const PixelBlocks& blocks, int64_t channels) {
  using S = Compute<T>;
  const auto padded = round_up(channels, kernels<S>().vector);
  const auto moments = values<S>({blocks.count, kMoments, padded});
  auto* sums = moments.template data_ptr<S>();
  blocks.each(Order::ascending, [&](int64_t b, int64_t begin, int64_t n) {
    row_kernels<T, S>().moments(x + begin * channels, n, channels, sums + b * kMoments * padded);
  });
  return merge_moments(sums, blocks.count, channels, [&](int64_t b) { return blocks.length(b); });
}

// One batch norm's gradients, in the type computed in.
struct NormGradients {
  at::Tensor gamma, beta;

  NormGradients(int64_t channels, const at::Tensor& x)
      : gamma(at::empty({channels}, x.options().dtype(accumulate_type(x)).memory_format(std::nullopt))),
        beta(at::empty({channels}, gamma.options())) {}
};

// The pass of a batch norm's backward that only reads; returns what `input_grad` multiplies with.
template <typename T, typename S>
std::vector<S> reduce_gradient(
    const T* grad, const T* x, const PixelBlocks& blocks, const BatchNorm<S>& bn, Activation act,
    NormGradients& grads) {
  const auto buffer = values<S>({blocks.count, 2 * bn.padded});
  auto* sums = buffer.template data_ptr<S>();
  blocks.each(Order::ascending, [&](int64_t b, int64_t begin, int64_t n) {
    const auto at = begin * bn.channels;
    row_kernels<T, S>().reduce_grad(
        grad + at, x + at, n, bn.channels, bn.apply(act), bn.mean.data(), sums + b * 2 * bn.padded);
  });
  return bn.gradient(sums, blocks.count, grads.gamma.data_ptr<S>(), grads.beta.data_ptr<S>());
}

} // namespace supernet::cpu
