// Blocks of floats, pixel after pixel, for processors whose matrix unit does little for the depthwise part:
// the kernels of BlockKernels for AMX.
#pragma once

#include "cpu/kernels/amx.h"
// behind the products
#include "cpu/kernels/blocks.h"

namespace supernet::cpu::SUPERNET_ISA {

inline Rows rows_read(const DepthwiseShape& s, int64_t begin, int64_t end) {
  const auto first = std::clamp<int64_t>(begin * s.stride - s.padding, 0, s.in_height);
  return {first, std::clamp<int64_t>((end - 1) * s.stride - s.padding + s.kernel, first, s.in_height)};
}

inline int64_t block_bytes(const DepthwiseShape& s, int64_t begin, int64_t end) {
  const auto rows = rows_read(s, begin, end);
  return (rows.end - rows.begin) * s.in_width * BlockKernels::kPixelBytes;
}

inline int64_t taps_bytes(int64_t kernel) {
  return kernel * kernel * BlockKernels::kPixelBytes;
}

inline void pack_taps(const float* taps, int64_t blocks, int64_t kernel, void* packed) {
  std::memcpy(packed, taps, blocks * taps_bytes(kernel));
}

inline void widen_block(
    const DepthwiseShape& s, const BFloat16* x, int64_t begin, int64_t end, int64_t lanes, void* block) {
  using V = FloatVec;
  const auto mask = V::mask(lanes);
  const auto rows = rows_read(s, begin, end);
  auto* y = static_cast<float*>(block);
  for (auto i = rows.begin * s.in_width; i < rows.end * s.in_width; ++i, y += V::kSize) {
    V::load(x + i * s.channels, mask).store(y);
  }
}

inline void expand_blocks(
    const DepthwiseShape& s, Band<const BFloat16> x, int64_t images, int64_t begin, int64_t end, int64_t depth,
    const BFloat16* packed, int64_t lanes, const float* bias, Activation act, void* blocks, int64_t block_stride) {
  using V = FloatVec;
  const auto rows = rows_read(s, begin, end);
  const auto pixels = ((images - 1) * s.in_height + rows.end - rows.begin) * s.in_width;
  const auto* in = x.data + (rows.begin - x.first) * s.in_width * depth;
  auto* low_block = static_cast<float*>(blocks);
  auto* high_block = reinterpret_cast<float*>(static_cast<char*>(blocks) + block_stride);
  const Products products;
  with_activation(act, [&](auto activation) {
    for (int64_t i = 0; i < pixels; i += Products::kRows) {
      products(pixels - i, lanes, in + i * depth, depth, packed, bias, [&](int64_t r, V low, V high) SUPERNET_LAMBDA {
        activate(decltype(activation)::value, low).store(low_block + (i + r) * V::kSize);
        if (lanes > V::kSize) {
          activate(decltype(activation)::value, high).store(high_block + (i + r) * V::kSize);
        }
      });
    }
  });
}

template <class Map>
Meeting<FloatVec> meeting(const BlockCall<FloatVec>& call, int64_t row) {
  const auto taps = taps_inside<Map>(call.shape, row);
  return {
      call.row(Map::row(call.shape, row, taps.begin)), call.taps + taps.begin * Map::kKernel * FloatVec::kSize,
      taps.end - taps.begin};
}

// Two rows of an image as wide as a tile: a narrow tile's sums alone would wait for each other.
template <int K, int TW>
void block_two_rows(const BlockCall<FloatVec>& call, int64_t row) {
  using V = FloatVec;
  using Map = Forward<K, 1>;
  constexpr Edges<Map, TW, true, true> inside;
  const V start = V::load(call.bias);
  V upper[TW], lower[TW];
  SUPERNET_UNROLL
  for (int t = 0; t < TW; ++t) {
    upper[t] = lower[t] = start;
  }
  // Input row first + tap meets the upper row with that tap, the lower one with the tap before.
  const auto first = row - K / 2;
  const auto begin = std::max<int64_t>(-first, 0), end = std::min<int64_t>(call.shape.in_height - first, K + 1);
  for (int64_t tap = begin; tap < end; ++tap) {
    const float* x = call.row(first + tap) - K / 2 * V::kSize;
    const float* weight = call.taps + tap * K * V::kSize;
    const float* before = weight - K * V::kSize;
    if (tap == 0) {
      add_taps_inside<V, Map>(upper, x, weight, inside);
    } else if (tap == K) {
      add_taps_inside<V, Map>(lower, x, before, inside);
    } else {
      add_taps_inside<V, Map>(upper, lower, x, weight, before, inside);
    }
  }
  fetch<Map, 2 * TW>(call.ahead);
  store_outputs(upper, call.act, TW, call.out_row(row), call.out_pixel);
  store_outputs(lower, call.act, TW, call.out_row(row + 1), call.out_pixel);
}

template <int K, int S, class In>
void block_rows(const BlockCall<In>& call, int64_t begin, int64_t end) {
  using Map = Forward<K, S>;
  const auto one = block_row_for<FloatVec, Map>(call.shape);
  for (int64_t row = begin; row < end;) {
    if (S == 1 && call.shape.out_width == 7 && row + 1 < end) {
      block_two_rows<K, 7>(call, row);
      row += 2;
    } else {
      one(call, meeting<Map>(call, row), call.out_row(row));
      row += 1;
    }
  }
}

inline int64_t first_of_block(const DepthwiseShape& s, int64_t begin, int64_t end) {
  return rows_read(s, begin, end).begin;
}

} // namespace supernet::cpu::SUPERNET_ISA
