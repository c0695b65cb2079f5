// Inference in bfloat16, block by block of 16 channels: the kernels of BlockKernels.
#pragma once

#include "amx.h"
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

inline void widen_blocks(
    const BFloat16* x, int64_t pixels, int64_t channels, int64_t lanes, float* y, int64_t y_block) {
  using V = FloatVec;
  if (lanes >= 2 * V::kSize) {
    for (int64_t i = 0; i < pixels; ++i, x += channels, y += V::kSize) {
      V::load(x).store(y);
      V::load(x + V::kSize).store(y + y_block);
    }
    return;
  }
  for (int64_t c = 0; c < lanes; c += V::kSize, x += V::kSize, y += y_block) {
    const auto mask = V::mask(lanes - c);
    for (int64_t i = 0; i < pixels; ++i) {
      V::load(x + i * channels, mask).store(y + i * V::kSize);
    }
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
  const Tiles tiles;
  with_activation(act, [&](auto activation) {
    for (int64_t i = 0; i < pixels; i += 2 * kTileRows) {
      float* c = y + i * V::kSize;
      multiply_tiles(pixels - i, lanes, x + i * depth, depth, packed, bias, c, V::kSize, y_block);
      if (decltype(activation)::value == Activation::none) {
        continue;
      }
      for (int64_t block = 0; block * V::kSize < lanes; ++block, c += y_block) {
        SUPERNET_UNROLL
        for (int r = 0; r < 2 * kTileRows; ++r) {
          activate(decltype(activation)::value, V::load(c + r * V::kSize)).store(c + r * V::kSize);
        }
      }
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
  alignas(64) float product[2 * kTileRows * kWidth];
  const Tiles tiles;
  with_activation(act, [&](auto activation) {
    const auto finish = [&](auto tail, int64_t i, int64_t j, auto low, auto high) SUPERNET_LAMBDA {
      constexpr bool kTail = decltype(tail)::value;
      const auto rows = std::min(pixels - i, 2 * kTileRows);
      for (int64_t r = 0; r < rows; ++r) {
        const auto at = (i + r) * columns + j;
        V first = activate(decltype(activation)::value, V::load(product + r * kWidth));
        V second = activate(decltype(activation)::value, V::load(product + r * kWidth + V::kSize));
        if (residual) {
          first = first + load<V, kTail>(residual + at, low);
          second = second + load<V, kTail>(residual + at + V::kSize, high);
        }
        V::store_pair<kTail>(first, second, y + at, low, high);
      }
    };
    for (int64_t i = 0; i < pixels; i += 2 * kTileRows) {
      for (int64_t j = 0; j < columns; j += kWidth) {
        const auto left = columns - j;
        multiply_tiles(
            pixels - i, left, x + i * depth, depth, packed + j * depth, bias + j, product, kWidth, V::kSize);
        if (left >= kWidth) {
          finish(Bool<false>{}, i, j, V::mask(16), V::mask(16));
        } else {
          finish(Bool<true>{}, i, j, V::mask(left), V::mask(std::max<int64_t>(left - V::kSize, 0)));
        }
      }
    }
  });
}

// One row of a block; columns of the input that are outside are tested for in tiles that meet the edges.
template <class V, class Map, int TW>
void depthwise_block_row(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    BFloat16* y, int64_t y_pixel, int64_t row) {
  constexpr int K = Map::kKernel;
  const auto inside = taps_inside<Map>(s, row);
  const V start = V::load(bias);
  const auto mask = V::mask(V::kSize);
  for (int64_t o = 0; o < s.out_width; o += TW) {
    const int64_t column = Map::first_column(s, o);
    const int64_t low = -column, high = s.in_width - column;
    const bool whole = low <= 0 && high >= Map::columns(TW);
    V acc[TW];
    SUPERNET_UNROLL
    for (int t = 0; t < TW; ++t) {
      acc[t] = start;
    }
    for (int64_t tap = inside.begin; tap < inside.end; ++tap) {
      const float* x = in.data + ((Map::row(s, row, tap) - in.first) * s.in_width + column) * V::kSize;
      const float* weight = taps + tap * K * V::kSize;
      if (whole) {
        add_taps<V, Map, TW, false, false>(acc, x, V::kSize, low, high, weight, mask);
      } else {
        add_taps<V, Map, TW, false, true>(acc, x, V::kSize, low, high, weight, mask);
      }
    }
    with_activation(act, [&](auto activation) SUPERNET_LAMBDA {
      SUPERNET_UNROLL
      for (int t = 0; t < TW; ++t) {
        if (t < s.out_width - o) {
          activate(decltype(activation)::value, acc[t]).store(y + (o + t) * y_pixel);
        }
      }
    });
  }
}

template <class V, class Map, int... TW>
auto depthwise_block_row_for(int64_t width) {
  decltype(&depthwise_block_row<V, Map, 4>) best = nullptr;
  int64_t best_cost = 0;
  const auto consider = [&](int tile, auto function) {
    const auto cost = (width + tile - 1) / tile * tile;
    if (best == nullptr || cost < best_cost) {
      best = function;
      best_cost = cost;
    }
  };
  (consider(TW, &depthwise_block_row<V, Map, TW>), ...);
  return best;
}

template <class V, int K>
auto depthwise_block_row_for(const DepthwiseShape& s) {
  return s.stride == 1 ? depthwise_block_row_for<V, Forward<K, 1>, 14, 8, 7, 4>(s.out_width)
                       : depthwise_block_row_for<V, Forward<K, 2>, 14, 8, 7, 4>(s.out_width);
}

inline void depthwise_block(
    const DepthwiseShape& s, Band<const float> in, const float* taps, const float* bias, Activation act,
    Band<BFloat16> out, int64_t out_pixel, int64_t begin, int64_t end) {
  using V = FloatVec;
  const auto function = s.kernel == 3 ? depthwise_block_row_for<V, 3>(s)
      : s.kernel == 5                 ? depthwise_block_row_for<V, 5>(s)
                                      : depthwise_block_row_for<V, 7>(s);
  for (int64_t row = begin; row < end; ++row) {
    function(s, in, taps, bias, act, out.data + (row - out.first) * s.out_width * out_pixel, out_pixel, row);
  }
}

} // namespace supernet::cpu::SUPERNET_ISA
