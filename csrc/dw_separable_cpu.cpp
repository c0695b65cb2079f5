// dw_separable_train and its backward on the CPU.
//
// Forward: the depthwise convolution takes the statistics of its output as it goes; batch norm and activation
// are applied to a block of pixels in the cache, which the pointwise product then reads, whose output's
// statistics are taken while it is there too; the last pass normalises. Backward computes the normalised
// tensors again, block by block. Of full size are read and written, forward: x, dw_out (twice), pw_out
// (twice), y; backward: grad and pw_out (twice), dw_out (twice), its gradient (twice), x and grad_x.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "batch_norm_cpu.h"
#include "dw_separable_cpu.h"
#include "layout.h"

namespace supernet {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using cpu::kernels;
using cpu::row_kernels;
using cpu::scratch;
using cpu::Use;

template <typename T>
struct Training {
  using S = cpu::Compute<T>;

  const Tensor& x;
  const DwSeparableShape& shape;
  cpu::DepthwiseBatch<T> depthwise;
  cpu::PixelBlocks blocks;
  Tensor dw_weight, pw_weight; // as S, contiguous

  Training(
      const Tensor& x,
      const DwSeparableShape& s,
      const Tensor& dw_weight,
      const Tensor& pw_weight,
      int64_t stride)
      : x(x),
        shape(s),
        depthwise(x.size(0), cpu::geometry(x, dw_weight, s, stride)),
        blocks(s.count, s.channels + s.out_channels),
        dw_weight(dw_weight.to(accumulate_type(x)).contiguous()),
        pw_weight(pw_weight.to(accumulate_type(x)).contiguous()) {}

  // Fills dw_out; returns its mean and variance.
  auto run_depthwise(Tensor& dw_out) const {
    const auto& bands = depthwise.bands();
    const auto moments = cpu::values<S>({bands.count, cpu::kMoments, depthwise.padded()});
    auto* sums = moments.template data_ptr<S>();
    depthwise.forward(
        x.const_data_ptr<T>(), dw_weight.const_data_ptr<S>(), dw_out.data_ptr<T>(), sums);
    return cpu::merge_moments(sums, bands.count, shape.channels, [&](int64_t b) {
      const auto band = bands.band(b);
      return (band.end - band.begin) * shape.width;
    });
  }

  // Fills pw_out from dw_out; returns its mean and variance.
  auto run_pointwise(
      const Tensor& dw_out, const cpu::BatchNorm<S>& bn, Activation act, Tensor& pw_out) const {
    const auto in = shape.channels, out = shape.out_channels;
    const auto padded = cpu::round_up(out, kernels<S>().vector);
    const auto packed = cpu::pack_pointwise<S>(pw_weight, nullptr, false);
    const auto moments = cpu::values<S>({blocks.count, cpu::kMoments, padded});
    const T* from = dw_out.const_data_ptr<T>();
    T* to = pw_out.data_ptr<T>();
    auto* sums = moments.template data_ptr<S>();
    blocks.each(cpu::Order::descending, [&](int64_t b, int64_t begin, int64_t n) {
      auto* middle = scratch<S>(Use::middle, n * in);
      row_kernels<T, S>().normalise(from + begin * in, n, in, bn.apply(act), middle);
      auto* product = as_values(to + begin * out, Use::output, n * out);
      kernels<S>().matmul(
          middle, n, in, packed.template const_data_ptr<S>(), out, nullptr, Activation::none, nullptr,
          product);
      row_kernels<S, S>().moments(product, n, out, sums + b * cpu::kMoments * padded);
      store(product, n * out, to + begin * out);
    });
    return cpu::merge_moments(sums, blocks.count, out, [&](int64_t b) { return blocks.length(b); });
  }

  void normalise(const Tensor& pw_out, const cpu::BatchNorm<S>& bn, Activation act, Tensor& y) const {
    const T* from = pw_out.const_data_ptr<T>();
    T* to = y.data_ptr<T>();
    const auto c = shape.out_channels;
    blocks.each(cpu::Order::ascending, [&](int64_t, int64_t begin, int64_t n) {
      row_kernels<T, S>().normalise_store(from + begin * c, n, c, bn.apply(act), to + begin * c);
    });
  }

  // Where to compute values that end up at `p`: there, or in a buffer from which `store` rounds them.
  static S* as_values([[maybe_unused]] T* p, Use use, int64_t n) {
    if constexpr (std::is_same_v<T, S>) {
      return p;
    } else {
      return scratch<S>(use, n);
    }
  }
  static void store(const S* values, int64_t n, T* p) {
    if constexpr (!std::is_same_v<T, S>) {
      row_kernels<T, S>().store(values, n, p);
    }
  }
};

template <typename T>
struct Backward : Training<T> {
  using Base = Training<T>;
  using typename Base::S;
  using Base::blocks;
  using Base::shape;

  using Base::Base;

  // From the gradient of y to that of the depthwise part's output, through the pointwise part: `g_z`, behind
  // its batch norm, with the sums for that one, [blocks][2][padded]; and the pointwise weight's gradient.
  void through_pointwise(
      const Tensor& grad,
      const Tensor& pw_out,
      const cpu::BatchNorm<S>& pw,
      Activation out_act,
      const Tensor& dw_out,
      const cpu::BatchNorm<S>& dw,
      Activation mid_act,
      cpu::NormGradients& pw_grads,
      S* g_z,
      S* dw_sums,
      Tensor& grad_weight) const {
    const auto in = shape.channels, out = shape.out_channels;
    const auto& rows = row_kernels<T, S>();
    const T *g = grad.const_data_ptr<T>(), *y = pw_out.const_data_ptr<T>(), *d = dw_out.const_data_ptr<T>();
    const auto abc = cpu::reduce_gradient(g, y, blocks, pw, out_act, pw_grads);
    const auto packed = cpu::pack_pointwise<S>(this->pw_weight, nullptr, true);
    const auto weight_size = out * dw.padded;
    const auto chunks = std::min(blocks.count, std::clamp<int64_t>(512 * 1024 / weight_size, 4, 16));
    const auto partial = at::zeros({chunks, out, dw.padded}, packed.options());
    auto* weight_sums = partial.template data_ptr<S>();
    cpu::parallel_chunks(blocks.count, chunks, [&](int64_t chunk, int64_t from, int64_t to) {
      for (auto b = to - 1; b >= from; --b) {
        const auto begin = blocks.begin(b), n = blocks.length(b);
        auto* g_out = scratch<S>(Use::gradient, n * out + cpu::kSlack);
        rows.input_grad(g + begin * out, y + begin * out, n, out, pw.apply(out_act), abc.data(), g_out);
        auto* middle = scratch<S>(Use::middle, n * in + cpu::kSlack);
        rows.normalise(d + begin * in, n, in, dw.apply(mid_act), middle);
        kernels<S>().matmul_transposed(g_out, out, middle, in, n, weight_sums + chunk * weight_size);
        S* g_mid = g_z + begin * in;
        kernels<S>().matmul(
            g_out, n, out, packed.template const_data_ptr<S>(), in, nullptr, Activation::none, nullptr,
            g_mid);
        rows.mask_and_reduce_grad(
            g_mid, d + begin * in, n, in, dw.apply(mid_act), dw.mean.data(), dw_sums + b * 2 * dw.padded);
      }
    });
    grad_weight = partial.sum(0).narrow(1, 0, in).reshape({out, in, 1, 1});
  }

  // The rest of the way, through the depthwise part.
  void through_depthwise(
      const S* g_z, const Tensor& dw_out, const cpu::BatchNorm<S>& dw, const std::vector<S>& abc, T* grad_x,
      S* grad_weight) const {
    const T* d = dw_out.const_data_ptr<T>();
    const auto row = shape.width * shape.channels;
    const auto load = [&](int64_t first, int64_t count, int64_t begin, int64_t end, int64_t& readable) {
      const auto at = (first * shape.height + begin) * row, pixels = count * (end - begin) * shape.width;
      auto* buffer = scratch<S>(Use::gradient, pixels * shape.channels);
      row_kernels<T, S>().input_grad_of_values(
          g_z + at, d + at, pixels, shape.channels, dw.apply(Activation::none), abc.data(), buffer);
      readable = 0;
      return cpu::Band<const S>{buffer, begin};
    };
    this->depthwise.backward(
        load, this->x.template const_data_ptr<T>(), this->dw_weight.template const_data_ptr<S>(), grad_x,
        grad_weight);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_train_cpu(
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
  constexpr auto op = "dw_separable_train";
  const auto [s, mid, out] = check_dw_separable_train(
      op, x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act,
      out_act);
  const at::AutoDispatchBelowAutograd guard;

  const auto in = channels_last(x);
  auto dw_out = cpu::empty_image(x, s.channels, s), pw_out = cpu::empty_image(x, s.out_channels, s);
  auto y = at::empty_like(pw_out);
  Tensor dw_mean, dw_var, pw_mean, pw_var;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), op, [&] {
    using S = cpu::Compute<scalar_t>;
    const Training<scalar_t> t(in, s, dw_weight, pw_weight, stride);
    std::tie(dw_mean, dw_var) = t.run_depthwise(dw_out);
    const cpu::BatchNorm<S> dw(dw_mean, dw_var, dw_gamma, dw_beta, dw_eps, s.count);
    std::tie(pw_mean, pw_var) = t.run_pointwise(dw_out, dw, mid, pw_out);
    const cpu::BatchNorm<S> pw(pw_mean, pw_var, pw_gamma, pw_beta, pw_eps, s.count);
    t.normalise(pw_out, pw, out, y);
  });
  return {y, dw_out, pw_out, dw_mean, dw_var, pw_mean, pw_var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> dw_separable_backward_cpu(
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
  constexpr auto op = "dw_separable_backward";
  const auto [s, mid, out] = check_dw_separable_train(
      op, x, dw_weight, dw_gamma, dw_beta, dw_eps, pw_weight, pw_gamma, pw_beta, pw_eps, stride, mid_act,
      out_act);
  check_grad(op, grad, {x.size(0), s.out_channels, s.height, s.width}, x);
  const at::AutoDispatchBelowAutograd guard;

  const auto in = channels_last(x), g = channels_last(grad);
  const auto dw_saved = channels_last(dw_out), pw_saved = channels_last(pw_out);
  auto grad_x = x_needed ? at::empty_like(in) : Tensor();
  auto grad_dw = at::empty(dw_weight.sizes(), dw_mean.options());
  cpu::NormGradients dw_grads(s.channels, x), pw_grads(s.out_channels, x);
  Tensor grad_pw;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), op, [&] {
    using S = cpu::Compute<scalar_t>;
    const Backward<scalar_t> b(in, s, dw_weight, pw_weight, stride);
    const cpu::BatchNorm<S> dw(dw_mean, dw_var, dw_gamma, dw_beta, dw_eps, s.count);
    const cpu::BatchNorm<S> pw(pw_mean, pw_var, pw_gamma, pw_beta, pw_eps, s.count);
    const auto g_z = cpu::values<S>({s.count * s.channels});
    const auto sums = cpu::values<S>({b.blocks.count, 2 * dw.padded});
    b.through_pointwise(
        g, pw_saved, pw, out, dw_saved, dw, mid, pw_grads, g_z.template data_ptr<S>(),
        sums.template data_ptr<S>(), grad_pw);
    const auto abc = dw.gradient(
        sums.template const_data_ptr<S>(), b.blocks.count, dw_grads.gamma.data_ptr<S>(),
        dw_grads.beta.data_ptr<S>());
    b.through_depthwise(
        g_z.template const_data_ptr<S>(), dw_saved, dw, abc, x_needed ? grad_x.data_ptr<scalar_t>() : nullptr,
        grad_dw.data_ptr<S>());
  });

  return {
      grad_x,
      in_layout_of(dw_weight, grad_dw.to(dw_weight.scalar_type())),
      gradient_for(dw_gamma, dw_grads.gamma),
      gradient_for(dw_beta, dw_grads.beta),
      in_layout_of(pw_weight, grad_pw.to(pw_weight.scalar_type())),
      gradient_for(pw_gamma, pw_grads.gamma),
      gradient_for(pw_beta, pw_grads.beta)};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("dw_separable_train", &dw_separable_train_cpu);
  m.impl("dw_separable_backward", &dw_separable_backward_cpu);
}

} // namespace supernet
