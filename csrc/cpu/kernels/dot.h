// Products of bfloat16 rows by dot products of pairs in vectors: the pointwise convolutions where there is no
// matrix unit. amx.h is the other form.
#pragma once

#include "cpu/kernels/pairs.h"

namespace supernet::cpu::SUPERNET_ISA {

// sums = A B + bias, of Rows runs of Columns rows of A, `run` apart, and 16 columns of B in each of Tiles.
template <int Runs, int Rows, int Tiles>
SUPERNET_INLINE void multiply_pairs(
    const c10::BFloat16* a, int64_t run, int64_t depth, const c10::BFloat16* b, const float* bias,
    FloatVec (&sums)[Runs * Rows][Tiles]) {
  using V = FloatVec;
  SUPERNET_UNROLL
  for (int t = 0; t < Tiles; ++t) {
    const V start = V::load(bias + t * kTileRows);
    SUPERNET_UNROLL
    for (int i = 0; i < Runs * Rows; ++i) {
      sums[i][t] = start;
    }
  }
  const auto tile = depth * kTileRows;
  for (int64_t k = 0; k < depth; k += 2, b += 2 * kTileRows) {
    __m512bh pairs[Tiles];
    SUPERNET_UNROLL
    for (int t = 0; t < Tiles; ++t) {
      pairs[t] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + t * tile));
    }
    SUPERNET_UNROLL
    for (int i = 0; i < Runs * Rows; ++i) {
      int value;
      std::memcpy(&value, a + i / Rows * run + i % Rows * depth + k, sizeof(value));
      const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(value));
      SUPERNET_UNROLL
      for (int t = 0; t < Tiles; ++t) {
        sums[i][t].v = _mm512_dpbf16_ps(sums[i][t].v, pair, pairs[t]);
      }
    }
  }
}

class Products {
 public:
  // Rows of A computed at a time.
  static constexpr int64_t kRows = 14;

  // Calls finish(row, columns 0 to 15, columns 16 to 31) of A B + bias for the first of `rows` rows, at most
  // kRows; of 16 columns or less the second vector is of no account.
  template <class F>
  SUPERNET_INLINE void operator()(
      int64_t rows, int64_t columns, const c10::BFloat16* a, int64_t depth, const c10::BFloat16* b,
      const float* bias, const F& finish) const {
    columns > kTileRows ? multiply<2>(rows, a, depth, b, bias, finish) : multiply<1>(rows, a, depth, b, bias, finish);
  }

 private:
  template <int Tiles, class F>
  SUPERNET_INLINE static void multiply(
      int64_t rows, const c10::BFloat16* a, int64_t depth, const c10::BFloat16* b, const float* bias,
      const F& finish) {
    FloatVec sums[kRows][Tiles];
    multiply_pairs<1, kRows, Tiles>(a, 0, depth, b, bias, sums);
    SUPERNET_UNROLL
    for (int i = 0; i < kRows; ++i) {
      if (i < rows) {
        finish(i, sums[i][0], sums[i][Tiles - 1]);
      }
    }
  }
};

} // namespace supernet::cpu::SUPERNET_ISA
