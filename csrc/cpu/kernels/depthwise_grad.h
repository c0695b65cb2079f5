// The gradient of a depthwise convolution's weight: sums over all pixels of grad times x, for each tap.
//
// The sums of some rows of taps (all of 3, 3 + 2 of 5, 3 + 2 + 2 of 7) stay in registers while a band of the
// image passes by, TW gradients at a time; each column of x is loaded once for each row of taps.
#pragma once

#include "cpu/kernels/depthwise.h"

namespace supernet::cpu::SUPERNET_ISA {

template <class V, int K, int S, int TW, int Rows, bool Tail>
void weight_grad_taps(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> x,
    Band<const typename V::Scalar> grad,
    int64_t images,
    int64_t begin,
    int64_t end,
    int64_t vector,
    int64_t first_tap,
    bool x_streams,
    bool grad_streams,
    typename V::Scalar* sums) {
  using Scalar = typename V::Scalar;
  using Map = Forward<K, S>;
  constexpr int columns = Map::columns(TW);
  const int64_t pixel = s.channels, in_row = s.in_width * pixel, channel = vector * V::kSize;
  const auto mask = V::mask(s.channels - channel);

  const int64_t image = s.in_height * in_row, grad_image = s.out_height * s.out_width * pixel;
  // Each vector asks for its share of what follows this band or these images.
  const int64_t tiles = (s.out_width + TW - 1) / TW * (end - begin) * images * vector;
  const Scalar* next_grad = grad.data + (images - 1) * grad_image + (end - grad.first) * s.out_width * pixel +
      tiles * TW * kLine<Scalar>;
  const Scalar* next_x =
      x.data + (images - 1) * image + (end * S - x.first) * in_row + tiles * TW * S * S * kLine<Scalar>;

  V acc[Rows * K];
  SUPERNET_UNROLL
  for (int i = 0; i < Rows * K; ++i) {
    acc[i] = V::zero();
  }
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t row = begin; row < end; ++row) {
      const Scalar* g_row = grad.data + i * grad_image + (row - grad.first) * s.out_width * pixel + channel;
      const int64_t top = Map::row(s, row, first_tap);
      for (int64_t o = 0; o < s.out_width; o += TW) {
        const int64_t column = Map::first_column(s, o), left = s.out_width - o;
        const int64_t low = -column, high = s.in_width - column;
        const Scalar* g_at = g_row + o * pixel;
        V g[TW];
        if (left >= TW) {
          SUPERNET_UNROLL
          for (int t = 0; t < TW; ++t) {
            g[t] = load<V, Tail>(g_at + t * pixel, mask);
          }
        } else {
          SUPERNET_UNROLL
          for (int t = 0; t < TW; ++t) {
            g[t] = t < left ? load<V, Tail>(g_at + t * pixel, mask) : V::zero();
          }
        }
        const bool whole = low <= 0 && high >= columns;
        SUPERNET_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const int64_t in = top + r;
          if (in >= 0 && in < s.in_height) {
            const Scalar* x_at = x.data + i * image + (in - x.first) * in_row + column * pixel + channel;
            // One copy of the loop for all tiles: a second one for those that are whole makes GCC spill.
            for_each_meeting<V, Map, TW, Tail>(
                x_at, pixel, mask, [&](int j) SUPERNET_LAMBDA { return whole || (j >= low && j < high); },
                [&](V value, int k, int t) SUPERNET_LAMBDA {
                  acc[r * K + k] = V::fma(value, g[t], acc[r * K + k]);
                });
          }
        }
        // The next image, in the order of its addresses
        if (grad_streams) {
          SUPERNET_UNROLL
          for (int t = 0; t < TW; ++t) {
            prefetch(next_grad + t * kLine<Scalar>);
          }
          next_grad += TW * kLine<Scalar>;
        }
        if (x_streams) {
          SUPERNET_UNROLL
          for (int j = 0; j < TW * S * S; ++j) {
            prefetch(next_x + j * kLine<Scalar>);
          }
          next_x += TW * S * S * kLine<Scalar>;
        }
      }
    }
  }
  Scalar* out = sums + (vector * K + first_tap) * K * V::kSize;
  SUPERNET_UNROLL
  for (int i = 0; i < Rows * K; ++i) {
    (V::load(out + i * V::kSize) + acc[i]).store(out + i * V::kSize);
  }
}

// Rows of taps at a time whose sums, with the gradients and a column of x, fit the registers: 3 and then 2s
// of 32 registers; of 16 all of 3, 2 of 5, 1 of 7.
template <class V, int K>
struct TapRows {
  static constexpr bool kWide = V::kRegisters == 32;
  static constexpr int kFirst = kWide || K == 3 ? 3 : K == 5 ? 2 : 1;
  static constexpr int kNext = kWide || K == 5 ? 2 : 1;
  static constexpr bool kNarrowTiles = !kWide && K < 7;
};

template <class V, int K, int S, int TW, bool Tail>
void weight_grad_vector(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> x,
    Band<const typename V::Scalar> grad,
    int64_t images,
    int64_t begin,
    int64_t end,
    int64_t vector,
    bool x_streams,
    bool grad_streams,
    typename V::Scalar* sums) {
  constexpr int kFirst = TapRows<V, K>::kFirst, kNext = TapRows<V, K>::kNext;
  weight_grad_taps<V, K, S, TW, kFirst, Tail>(
      s, x, grad, images, begin, end, vector, 0, x_streams, grad_streams, sums);
  int tap = kFirst;
  for (; tap + kNext <= K; tap += kNext) {
    weight_grad_taps<V, K, S, TW, kNext, Tail>(
        s, x, grad, images, begin, end, vector, tap, false, false, sums);
  }
  if constexpr ((K - kFirst) % kNext == 1) {
    weight_grad_taps<V, K, S, TW, 1, Tail>(
        s, x, grad, images, begin, end, vector, tap, false, false, sums);
  }
}

template <class V, int K, int S, int TW>
void weight_grad_rows(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> x,
    Band<const typename V::Scalar> grad,
    int64_t images,
    int64_t begin,
    int64_t end,
    typename V::Scalar* sums,
    bool x_streams,
    bool grad_streams) {
  const int64_t whole = s.channels / V::kSize;
  for (int64_t v = 0; v < whole; ++v) {
    weight_grad_vector<V, K, S, TW, false>(
        s, x, grad, images, begin, end, v, x_streams, grad_streams, sums);
  }
  if (whole * V::kSize < s.channels) {
    weight_grad_vector<V, K, S, TW, true>(
        s, x, grad, images, begin, end, whole, x_streams, grad_streams, sums);
  }
}

template <class V, int K, int S>
auto weight_grad_rows_for(int64_t width) {
  const auto cost = [&](int64_t tile) { return (width + tile - 1) / tile * tile; };
  if constexpr (!TapRows<V, K>::kNarrowTiles) {
    if (cost(7) <= cost(4)) {
      return &weight_grad_rows<V, K, S, 7>;
    }
  }
  return &weight_grad_rows<V, K, S, 4>;
}

} // namespace supernet::cpu::SUPERNET_ISA
