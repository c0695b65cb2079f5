// Products of bfloat16 rows by dot products of pairs in vectors: the pointwise convolutions where there is no matrix
// unit. amx.h is the other form.
#pragma once

#include "pairs.h"

namespace supernet::cpu::SUPERNET_ISA {

class Products {
 public:
  // Rows of A computed at a time.
  static constexpr int64_t kRows = 8;

  // Calls finish(row, columns 0 to 15, columns 16 to 31) of A B + bias for the first of `rows` rows, at most kRows;
  // of 16 columns or less the second vector is of no account.
  template <class F>
  SUPERNET_INLINE void operator()(
      int64_t rows, int64_t columns, const c10::BFloat16* a, int64_t depth, const c10::BFloat16* b, const float* bias,
      const F& finish) const {
    columns > kTileRows ? multiply<2>(rows, a, depth, b, bias, finish) : multiply<1>(rows, a, depth, b, bias, finish);
  }

 private:
  template <int NT, class F>
  SUPERNET_INLINE static void multiply(
      int64_t rows, const c10::BFloat16* a, int64_t depth, const c10::BFloat16* b, const float* bias,
      const F& finish) {
    using V = FloatVec;
    V acc[kRows][NT];
    SUPERNET_UNROLL
    for (int v = 0; v < NT; ++v) {
      const V start = V::load(bias + v * V::kSize);
      SUPERNET_UNROLL
      for (int i = 0; i < kRows; ++i) {
        acc[i][v] = start;
      }
    }
    const auto tile = depth * kTileRows;
    for (int64_t k = 0; k < depth; k += 2, b += 2 * kTileRows) {
      __m512bh pairs[NT];
      SUPERNET_UNROLL
      for (int v = 0; v < NT; ++v) {
        pairs[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + v * tile));
      }
      SUPERNET_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const auto pair = _mm512_set1_epi32(load_pair(a + i * depth + k));
        SUPERNET_UNROLL
        for (int v = 0; v < NT; ++v) {
          acc[i][v].v = _mm512_dpbf16_ps(acc[i][v].v, reinterpret_cast<__m512bh>(pair), pairs[v]);
        }
      }
    }
    SUPERNET_UNROLL
    for (int i = 0; i < kRows; ++i) {
      if (i < rows) {
        finish(i, acc[i][0], acc[i][NT - 1]);
      }
    }
  }

  static SUPERNET_INLINE int load_pair(const c10::BFloat16* p) {
    int pair;
    std::memcpy(&pair, p, sizeof(pair));
    return pair;
  }
};

} // namespace supernet::cpu::SUPERNET_ISA
