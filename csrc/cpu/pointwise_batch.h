// Pointwise convolutions of whole batches in training: over blocks of pixels that stay in the cache, between
// the batch norm before them, which is applied to what they read, and the one behind, whose sums they take.
#pragma once

#include <algorithm>

#include "cpu/batch_norm.h"
#include "cpu/dw_separable.h"

namespace supernet::cpu {

template <typename T>
class PointwiseBatch {
 public:
  using S = Compute<T>;

  PointwiseBatch(int64_t pixels, const at::Tensor& weight)
      : out_(weight.size(0)),
        in_(weight.size(1)),
        blocks_(pixels, in_ + out_),
        weight_(weight.to(c10::CppTypeToScalarType<S>::value)) {}

  const PixelBlocks& blocks() const {
    return blocks_;
  }

  // y; x is read through `prologue` where that is not null. finish(block, n, values) is called for each block of
  // y, in the cache.
  template <class Finish>
  void forward(const T* x, const Affine<S>* prologue, T* y, const Finish& finish) const {
    const auto packed = pack_pointwise<S>(weight_, nullptr, false);
    blocks_.each(Order::descending, [&](int64_t b, int64_t begin, int64_t n) {
      const S* in = load(x, prologue, begin, n, 0);
      T* to = y + begin * out_;
      S* product = as_values(to, n * out_);
      kernels<S>().matmul(
          in, n, in_, packed.template const_data_ptr<S>(), out_, nullptr, Activation::none, nullptr, product);
      finish(b, n, product);
      store(product, n * out_, to);
    });
  }

  // y, and its mean and variance.
  std::tuple<at::Tensor, at::Tensor> forward_moments(const T* x, const Affine<S>* prologue, T* y) const {
    const auto padded = round_up(out_, kernels<S>().vector);
    const auto moments = values<S>({blocks_.count, kMoments, padded});
    auto* sums = moments.template data_ptr<S>();
    forward(x, prologue, y, [&](int64_t b, int64_t n, const S* product) {
      row_kernels<S, S>().moments(product, n, out_, sums + b * kMoments * padded);
    });
    return merge_moments(sums, blocks_.count, out_, [&](int64_t b) { return blocks_.length(b); });
  }

  // Returns the weight's gradient and fills x's where that is not null. gradient(begin, n, out) gives the
  // gradient of y's block; behind each block of x's gradient comes finish(block, begin, n, values). `residual`
  // [pixels, in] is added to x's gradient where not null.
  template <class Gradient, typename G, class Finish>
  at::Tensor backward(
      const Gradient& gradient, const T* x, const Affine<S>* prologue, const T* residual, G* grad_x,
      const Finish& finish) const {
    const auto packed = pack_pointwise<S>(weight_, nullptr, true);
    // The wider side comes in whole vectors.
    const bool wide_out = out_ > in_;
    const auto rows = std::min(in_, out_), columns = std::max(in_, out_);
    const auto padded = round_up(columns, kernels<S>().vector), size = rows * padded;
    const auto chunks = std::min(blocks_.count, std::clamp<int64_t>(512 * 1024 / size, 4, 16));
    const auto partial = at::zeros({chunks, rows, padded}, weight_.options());
    auto* sums = partial.template data_ptr<S>();
    parallel_chunks(blocks_.count, chunks, [&](int64_t chunk, int64_t from, int64_t to) {
      for (auto b = to - 1; b >= from; --b) {
        const auto begin = blocks_.begin(b), n = blocks_.length(b);
        S* g = scratch<S>(Use::gradient, n * out_ + kSlack);
        gradient(begin, n, g);
        const S* in = load(x, prologue, begin, n, kSlack);
        kernels<S>().matmul_transposed(
            wide_out ? in : g, rows, wide_out ? g : in, columns, n, sums + chunk * size);
        if (grad_x) {
          const S* skip = residual ? load(residual, nullptr, begin, n, 0) : nullptr;
          G* to_x = grad_x + begin * in_;
          S* product = as_values(to_x, n * in_);
          kernels<S>().matmul(
              g, n, out_, packed.template const_data_ptr<S>(), in_, nullptr, Activation::none, skip, product);
          finish(b, begin, n, product);
          store(product, n * in_, to_x);
        }
      }
    });
    const auto sum = (chunks == 1 ? partial[0] : partial.sum(0)).narrow(1, 0, columns);
    return (wide_out ? sum.t().contiguous() : sum).reshape({out_, in_, 1, 1}); // in two axes it copies by blocks
  }

 private:
  // A block as it is computed on, with `slack` values behind it that may be read.
  const S* load(const T* x, const Affine<S>* prologue, int64_t begin, int64_t n, int64_t slack) const {
    const T* at = x + begin * in_;
    if constexpr (std::is_same_v<T, S>) {
      if (!prologue && (blocks_.pixels - begin - n) * in_ >= slack) {
        return at;
      }
    }
    S* buffer = scratch<S>(Use::middle, n * in_ + slack);
    if (prologue) {
      row_kernels<T, S>().normalise(at, n, in_, *prologue, buffer);
    } else {
      row_kernels<T, S>().load(at, n * in_, buffer);
    }
    return buffer;
  }

  // Where to compute values that end up at `p`: there, or in a buffer from which `store` rounds them.
  template <typename G>
  static S* as_values([[maybe_unused]] G* p, int64_t n) {
    if constexpr (std::is_same_v<G, S>) {
      return p;
    } else {
      return scratch<S>(Use::output, n);
    }
  }
  template <typename G>
  static void store([[maybe_unused]] const S* from, int64_t n, G* p) {
    if constexpr (!std::is_same_v<G, S>) {
      row_kernels<G, S>().store(from, n, p);
    }
  }

  int64_t out_, in_;
  PixelBlocks blocks_;
  at::Tensor weight_; // [out, in, 1, 1] as S
};

} // namespace supernet::cpu
