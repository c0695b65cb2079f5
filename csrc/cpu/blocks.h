// Inference in bfloat16, block by block of 16 channels: the kernels of BlockKernels. The products are those of amx.h or
// of dot.h, whichever was included before.
#pragma once

#include "depthwise.h"
#include "rows.h"

namespace supernet::cpu::SUPERNET_ISA {

using c10::BFloat16;

inline void pad_rows(const BFloat16* x, int64_t pixels, int64_t channels, BFloat16* y) {
  const auto mask = [](int64_t left) {
    return left >= 32 ? ~__mmask32(0) : static_cast<__mmask32>((1ull << left) - 1);
  };
  for (int64_t i = 0; i < pixels; ++i, x += channels) {
    for (int64_t c = 0; c < channels; c += 32, y += 32) {
      _mm512_store_si512(y, _mm512_maskz_loadu_epi16(mask(channels - c), x + c));
    }
  }
}

inline void widen_block(const BFloat16* x, int64_t pixels, int64_t channels, int64_t lanes, float* y) {
  using V = FloatVec;
  const auto mask = V::mask(lanes);
  for (int64_t i = 0; i < pixels; ++i) {
    V::load(x + i * channels, mask).store(y + i * V::kSize);
  }
}

inline void expand_blocks(
    const BFloat16* x,
    int64_t pixels,
    int64_t depth,
    const BFloat16* packed,
    int64_t lanes,
    const float* bias,
    Activation act,
    float* y,
    int64_t y_block) {
  using V = FloatVec;
  const Products products;
  with_activation(act, [&](auto activation) {
    for (int64_t i = 0; i < pixels; i += Products::kRows) {
      products(pixels - i, lanes, x + i * depth, depth, packed, bias, [&](int64_t r, V low, V high) SUPERNET_LAMBDA {
        float* at = y + (i + r) * V::kSize;
        activate(decltype(activation)::value, low).store(at);
        if (lanes > V::kSize) {
          activate(decltype(activation)::value, high).store(at + y_block);
        }
      });
    }
  });
}

inline void project_pixels(
    const BFloat16* x,
    int64_t pixels,
    int64_t depth,
    const BFloat16* packed,
    int64_t columns,
    const float* bias,
    Activation act,
    const BFloat16* residual,
    BFloat16* y) {
  using V = FloatVec;
  constexpr int64_t kWidth = 2 * V::kSize;
  const Products products;
  with_activation(act, [&](auto activation) {
    const auto pass = [&](auto tail, int64_t i, int64_t j) SUPERNET_LAMBDA {
      constexpr bool kTail = decltype(tail)::value;
      const auto left = columns - j;
      const auto low = V::mask(left), high = V::mask(std::max<int64_t>(left - V::kSize, 0));
      const auto finish = [&](int64_t r, V first, V second) SUPERNET_LAMBDA {
        const auto at = (i + r) * columns + j;
        first = activate(decltype(activation)::value, first);
        second = activate(decltype(activation)::value, second);
        if (residual) {
          first = first + load<V, kTail>(residual + at, low);
          second = second + load<V, kTail>(residual + at + V::kSize, high);
        }
        V::store_pair<kTail>(first, second, y + at, low, high);
      };
      products(pixels - i, left, x + i * depth, depth, packed + j * depth, bias + j, finish);
    };
    for (int64_t i = 0; i < pixels; i += Products::kRows) {
      int64_t j = 0;
      for (; j + kWidth <= columns; j += kWidth) {
        pass(Bool<false>{}, i, j);
      }
      if (j < columns) {
        pass(Bool<true>{}, i, j);
      }
    }
  });
}

// One row of taps into a tile.
template <class V, class Map, int TW, class Inside>
SUPERNET_INLINE void add_taps_inside(V (&acc)[TW], const float* x, const float* weight, const Inside& inside) {
  constexpr int K = Map::kKernel;
  V taps[K];
  SUPERNET_UNROLL
  for (int i = 0; i < K; ++i) {
    taps[i] = V::load(weight + i * V::kSize);
  }
  for_each_meeting<V, Map, TW, false>(
      x, V::kSize, V::mask(V::kSize), inside,
      [&](V column, int i, int t) SUPERNET_LAMBDA { acc[t] = V::fma(column, taps[i], acc[t]); });
}

// One row of the input into the tiles of two rows of the output.
template <class V, class Map, int TW, class Inside>
SUPERNET_INLINE void add_taps_inside(
    V (&upper)[TW], V (&lower)[TW], const float* x, const float* upper_weight, const float* lower_weight,
    const Inside& inside) {
  constexpr int K = Map::kKernel;
  V upper_taps[K], lower_taps[K];
  SUPERNET_UNROLL
  for (int i = 0; i < K; ++i) {
    upper_taps[i] = V::load(upper_weight + i * V::kSize);
    lower_taps[i] = V::load(lower_weight + i * V::kSize);
  }
  for_each_meeting<V, Map, TW, false>(
      x, V::kSize, V::mask(V::kSize), inside, [&](V column, int i, int t) SUPERNET_LAMBDA {
        upper[t] = V::fma(column, upper_taps[i], upper[t]);
        lower[t] = V::fma(column, lower_taps[i], lower[t]);
      });
}

template <class V, int TW>
SUPERNET_INLINE void store_outputs(V (&acc)[TW], Activation act, int64_t count, BFloat16* y, int64_t y_pixel) {
  with_activation(act, [&](auto activation) SUPERNET_LAMBDA {
    SUPERNET_UNROLL
    for (int t = 0; t < TW; ++t) {
      if (t < count) {
        activate(decltype(activation)::value, acc[t]).store(y + t * y_pixel);
      }
    }
  });
}

// Lines of what is read next and of what is written next, as a tile has columns to wait for.
template <class Map, int TW>
SUPERNET_INLINE void fetch(Ahead& ahead) {
  constexpr int kLines = (Map::kFreshRows * Map::fresh_columns(TW) * BlockKernels::kBlock * 2 + 63) / 64;
  constexpr int kOutLines = (TW * BlockKernels::kBlock * 2 + 63) / 64;
  if (ahead.next < ahead.end) {
    SUPERNET_UNROLL
    for (int i = 0; i < kLines; ++i) {
      prefetch(ahead.next + i * kLine<BFloat16>);
    }
    ahead.next += kLines * kLine<BFloat16>;
  }
  if (ahead.next_out < ahead.end_out) {
    SUPERNET_UNROLL
    for (int i = 0; i < kOutLines; ++i) {
      prefetch_to_write(ahead.next_out + i * kLine<BFloat16>);
    }
    ahead.next_out += kOutLines * kLine<BFloat16>;
  }
}

// A tile at the left or the right edge of an image whose width is a multiple of the tile's: which columns are
// outside is known when compiling.
template <class Map, int TW, bool Left, bool Right>
struct Edges {
  static constexpr int kPadding = Map::kKernel / 2;
  constexpr bool operator()(int j) const {
    return (!Left || j >= kPadding) && (!Right || j < kPadding + Map::fresh_columns(TW));
  }
};

template <class V, class Map, int TW, class Inside>
SUPERNET_INLINE void depthwise_tile(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    BFloat16* y, int64_t y_pixel, int64_t row, Taps rows, int64_t o, const Inside& inside, Ahead& ahead) {
  const V start = V::load(bias);
  V acc[TW];
  SUPERNET_UNROLL
  for (int t = 0; t < TW; ++t) {
    acc[t] = start;
  }
  for (int64_t tap = rows.begin; tap < rows.end; ++tap) {
    const auto at = (Map::row(s, row, tap) - in.first) * s.in_width + Map::first_column(s, o);
    add_taps_inside<V, Map>(acc, in.data + at * V::kSize, taps + tap * Map::kKernel * V::kSize, inside);
  }
  fetch<Map, TW>(ahead);
  store_outputs(acc, act, s.out_width - o, y + o * y_pixel, y_pixel);
}

// One row of a block, of whole tiles.
template <class V, class Map, int TW>
void depthwise_row_of_tiles(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    BFloat16* y, int64_t y_pixel, int64_t row, Ahead& ahead) {
  const auto rows = taps_inside<Map>(s, row);
  const auto tile = [&](int64_t o, auto inside) SUPERNET_LAMBDA {
    depthwise_tile<V, Map, TW>(s, in, taps, bias, act, y, y_pixel, row, rows, o, inside, ahead);
  };
  if (s.out_width == TW) {
    return tile(0, Edges<Map, TW, true, true>{});
  }
  tile(0, Edges<Map, TW, true, false>{});
  for (int64_t o = TW; o < s.out_width - TW; o += TW) {
    tile(o, Edges<Map, TW, false, false>{});
  }
  tile(s.out_width - TW, Edges<Map, TW, false, true>{});
}

// One row of a block, whatever its width: each column is tested.
template <class V, class Map, int TW>
void depthwise_row_of_any(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    BFloat16* y, int64_t y_pixel, int64_t row, Ahead& ahead) {
  const auto rows = taps_inside<Map>(s, row);
  for (int64_t o = 0; o < s.out_width; o += TW) {
    const int64_t low = -Map::first_column(s, o), high = s.in_width + low;
    const auto inside = [&](int j) SUPERNET_LAMBDA { return j >= low && j < high; };
    depthwise_tile<V, Map, TW>(s, in, taps, bias, act, y, y_pixel, row, rows, o, inside, ahead);
  }
}

// Two rows of an image as wide as a tile: a narrow tile's sums alone would wait for each other.
template <class V, int K, int TW>
void depthwise_two_rows(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    BFloat16* y, int64_t y_pixel, int64_t row, Ahead& ahead) {
  using Map = Forward<K, 1>;
  constexpr Edges<Map, TW, true, true> inside;
  const V start = V::load(bias);
  V upper[TW], lower[TW];
  SUPERNET_UNROLL
  for (int t = 0; t < TW; ++t) {
    upper[t] = lower[t] = start;
  }
  // Input row first + tap meets the upper row with that tap, the lower one with the tap before.
  const auto first = row - K / 2;
  const auto begin = std::max<int64_t>(-first, 0), end = std::min<int64_t>(s.in_height - first, K + 1);
  for (int64_t tap = begin; tap < end; ++tap) {
    const float* x = in.data + ((first + tap - in.first) * s.in_width - K / 2) * V::kSize;
    const float* weight = taps + tap * K * V::kSize;
    const float* before = weight - K * V::kSize;
    if (tap == 0) {
      add_taps_inside<V, Map>(upper, x, weight, inside);
    } else if (tap == K) {
      add_taps_inside<V, Map>(lower, x, before, inside);
    } else {
      add_taps_inside<V, Map>(upper, lower, x, weight, before, inside);
    }
  }
  fetch<Map, 2 * TW>(ahead);
  store_outputs(upper, act, TW, y, y_pixel);
  store_outputs(lower, act, TW, y + s.out_width * y_pixel, y_pixel);
}

template <class V, class Map>
auto depthwise_row_for(const DepthwiseShape& s) {
  const auto whole = [&](int64_t tile) {
    return s.out_width % tile == 0 && s.in_width == Map::fresh_columns(1) * s.out_width;
  };
  return whole(14)         ? &depthwise_row_of_tiles<V, Map, 14>
      : whole(8)           ? &depthwise_row_of_tiles<V, Map, 8>
      : whole(7)           ? &depthwise_row_of_tiles<V, Map, 7>
      : s.out_width % 8 > 4 ? &depthwise_row_of_any<V, Map, 8>
                           : &depthwise_row_of_any<V, Map, 4>;
}

template <class V, int K>
void depthwise_block_of(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    Band<BFloat16> out, int64_t out_pixel, int64_t begin, int64_t end, Ahead& ahead) {
  const auto one = s.stride == 1 ? depthwise_row_for<V, Forward<K, 1>>(s) : depthwise_row_for<V, Forward<K, 2>>(s);
  for (int64_t row = begin; row < end;) {
    const bool two = s.stride == 1 && s.out_width == 7 && row + 1 < end;
    const auto function = two ? &depthwise_two_rows<V, K, 7> : one;
    BFloat16* y = out.data + (row - out.first) * s.out_width * out_pixel;
    function(s, in, taps, bias, act, y, out_pixel, row, ahead);
    row += two ? 2 : 1;
  }
}

inline void depthwise_block(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    Band<BFloat16> out, int64_t out_pixel, int64_t begin, int64_t end, Ahead& ahead) {
  const auto function = s.kernel == 3 ? &depthwise_block_of<FloatVec, 3>
      : s.kernel == 5                 ? &depthwise_block_of<FloatVec, 5>
                                      : &depthwise_block_of<FloatVec, 7>;
  function(s, in, taps, bias, act, out, out_pixel, begin, end, ahead);
}

} // namespace supernet::cpu::SUPERNET_ISA
