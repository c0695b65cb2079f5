// Inference in bfloat16, block by block of 16 channels: what the kernels of BlockKernels share, whatever a
// block holds. The products are those of amx.h or of dot.h, whichever was included before.
#pragma once

#include "cpu/kernels/depthwise.h"
#include "cpu/kernels/rows.h"

namespace supernet::cpu::SUPERNET_ISA {

using c10::BFloat16;

inline void pad_rows(const BFloat16* x, int64_t pixels, int64_t channels, int64_t depth, BFloat16* y) {
  const auto mask = [](int64_t left) {
    return left >= 32 ? ~__mmask32(0) : static_cast<__mmask32>((1ull << std::max<int64_t>(left, 0)) - 1);
  };
  for (int64_t i = 0; i < pixels; ++i, x += channels, y += depth) {
    for (int64_t c = 0; c < depth; c += 32) {
      _mm512_mask_storeu_epi16(y + c, mask(depth - c), _mm512_maskz_loadu_epi16(mask(channels - c), x + c));
    }
  }
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

// In: vectors of what a block holds for a pixel.

// One row of taps into a tile.
template <class In, class Map, int TW, class Inside>
SUPERNET_INLINE void add_taps_inside(
    FloatVec (&acc)[TW], const typename In::Scalar* x, const typename In::Scalar* weight, const Inside& inside) {
  add_taps<In, Map, TW, false>(acc, x, In::kSize, inside, weight, In::mask(In::kSize));
}

// One row of the input into the tiles of two rows of the output.
template <class In, class Map, int TW, class Inside>
SUPERNET_INLINE void add_taps_inside(
    FloatVec (&upper)[TW], FloatVec (&lower)[TW], const typename In::Scalar* x,
    const typename In::Scalar* upper_weight, const typename In::Scalar* lower_weight, const Inside& inside) {
  constexpr int K = Map::kKernel;
  In upper_taps[K], lower_taps[K];
  SUPERNET_UNROLL
  for (int i = 0; i < K; ++i) {
    upper_taps[i] = In::load(upper_weight + i * In::kSize);
    lower_taps[i] = In::load(lower_weight + i * In::kSize);
  }
  for_each_meeting<In, Map, TW, false>(
      x, In::kSize, In::mask(In::kSize), inside, [&](In column, int i, int t) SUPERNET_LAMBDA {
        upper[t] = In::fma(column, upper_taps[i], upper[t]);
        lower[t] = In::fma(column, lower_taps[i], lower[t]);
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

// The depthwise convolution of a block whose rows begin with `first`, into pixels.
template <class In>
struct BlockCall {
  using Scalar = typename In::Scalar;
  const DepthwiseShape& shape;
  const Scalar* block;
  int64_t first;
  const Scalar* taps;
  const float* bias;
  Activation act;
  Band<BFloat16> out;
  int64_t out_pixel;
  Ahead& ahead;

  const Scalar* row(int64_t r) const {
    return block + (r - first) * shape.in_width * In::kSize;
  }
  BFloat16* out_row(int64_t r) const {
    return out.data + (r - out.first) * shape.out_width * out_pixel;
  }
};

// The rows of a block that one row of the output meets, with their rows of taps.
template <class In>
struct Meeting {
  const typename In::Scalar *rows, *taps;
  int64_t count;
};

template <class In, class Map, int TW, class Inside>
SUPERNET_INLINE void depthwise_tile(
    const BlockCall<In>& call, const Meeting<In>& meeting, BFloat16* y, int64_t o, const Inside& inside) {
  const auto& s = call.shape;
  const auto start = FloatVec::load(call.bias);
  FloatVec acc[TW];
  SUPERNET_UNROLL
  for (int t = 0; t < TW; ++t) {
    acc[t] = start;
  }
  const auto* x = meeting.rows + Map::first_column(s, o) * In::kSize;
  for (int64_t i = 0; i < meeting.count; ++i) {
    add_taps_inside<In, Map>(
        acc, x + i * s.in_width * In::kSize, meeting.taps + i * Map::kKernel * In::kSize, inside);
  }
  fetch<Map, TW>(call.ahead);
  store_outputs(acc, call.act, s.out_width - o, y + o * call.out_pixel, call.out_pixel);
}

// Calls tile(o, inside) for the tiles of a row. Of whole ones it is known when compiling which columns are
// inside; else each column is tested.
template <class Map, int TW, bool Whole, class F>
SUPERNET_INLINE void for_each_tile(const DepthwiseShape& s, const F& tile) {
  if constexpr (!Whole) {
    for (int64_t o = 0; o < s.out_width; o += TW) {
      const int64_t low = -Map::first_column(s, o), high = s.in_width + low;
      tile(o, [&](int j) SUPERNET_LAMBDA { return j >= low && j < high; });
    }
  } else if (s.out_width == TW) {
    tile(0, Edges<Map, TW, true, true>{});
  } else {
    tile(0, Edges<Map, TW, true, false>{});
    for (int64_t o = TW; o < s.out_width - TW; o += TW) {
      tile(o, Edges<Map, TW, false, false>{});
    }
    tile(s.out_width - TW, Edges<Map, TW, false, true>{});
  }
}

template <class In, class Map, int TW, bool Whole>
void block_row(const BlockCall<In>& call, const Meeting<In>& meeting, BFloat16* y) {
  for_each_tile<Map, TW, Whole>(call.shape, [&](int64_t o, const auto& inside) SUPERNET_LAMBDA {
    depthwise_tile<In, Map, TW>(call, meeting, y, o, inside);
  });
}

template <class In, class Map>
auto block_row_for(const DepthwiseShape& s) {
  return whole_tiles<Map>(s, 14) ? &block_row<In, Map, 14, true>
      : whole_tiles<Map>(s, 8)   ? &block_row<In, Map, 8, true>
      : whole_tiles<Map>(s, 7)   ? &block_row<In, Map, 7, true>
      : s.out_width % 8 > 4      ? &block_row<In, Map, 8, false>
                                 : &block_row<In, Map, 4, false>;
}

// The first row of what output rows [begin, end) need, and these rows' convolution: of blocks_float.h or
// blocks_pairs.h.
inline int64_t first_of_block(const DepthwiseShape& s, int64_t begin, int64_t end);
template <int K, int S, class In>
void block_rows(const BlockCall<In>& call, int64_t begin, int64_t end);

// The kernel of BlockKernels.
template <class In>
void depthwise_block(
    const DepthwiseShape& s, const void* block, const void* taps, const float* bias, Activation act,
    Band<BFloat16> out, int64_t out_pixel, int64_t begin, int64_t end, Ahead& ahead) {
  using Scalar = typename In::Scalar;
  const BlockCall<In> call{
      s, static_cast<const Scalar*>(block), first_of_block(s, begin, end), static_cast<const Scalar*>(taps), bias,
      act, out, out_pixel, ahead};
  const auto run = [&](auto kernel) {
    constexpr int K = decltype(kernel)::value;
    s.stride == 1 ? block_rows<K, 1>(call, begin, end) : block_rows<K, 2>(call, begin, end);
  };
  s.kernel == 3 ? run(std::integral_constant<int, 3>{})
      : s.kernel == 5 ? run(std::integral_constant<int, 5>{})
                      : run(std::integral_constant<int, 7>{});
}

} // namespace supernet::cpu::SUPERNET_ISA
