// Operands of bfloat16 products: pairs of neighbouring steps of the depth are multiplied and added up at
// once.
#pragma once

#include "cpu/kernels/vector_ops.h"

namespace supernet::cpu::SUPERNET_ISA {

constexpr int64_t kTileRows = 16, kTileDepth = 32;
constexpr int64_t kTileValues = kTileRows * kTileDepth; // of A and of B

// B, given as b [columns, depth], column tile by column tile, of each all steps up to the padded depth, an
// even number: rows of 16 pairs of steps.
inline void pack_pairs(
    const float* b, int64_t depth, int64_t padded, int64_t columns, const float* scale, c10::BFloat16* packed) {
  using V = FloatVec;
  const auto rows =
      _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
  for (int64_t first = 0; first < columns; first += kTileRows) {
    for (int64_t k = 0; k < padded; k += kTileDepth) {
      const auto pairs = V::mask((padded - k) / 2);
      const auto low = V::mask(std::max<int64_t>(depth - k, 0));
      const auto high = V::mask(std::max<int64_t>(depth - k - V::kSize, 0));
      for (int64_t i = 0; i < kTileRows; ++i) {
        V one = V::zero(), other = V::zero();
        if (first + i < columns) {
          const float* p = b + (first + i) * depth + k;
          const V by = V::set(scale[first + i]);
          one = V::load(p, low) * by;
          other = V::load(p + V::kSize, high) * by;
        }
        _mm512_mask_i32scatter_epi32(packed + 2 * i, pairs, rows, V::pair(one, other), 4);
      }
      packed += std::min(padded - k, kTileDepth) * kTileRows;
    }
  }
}

} // namespace supernet::cpu::SUPERNET_ISA
