// Tables of bytes for AVX-512.
#pragma once

#include "cpu/kernels/int8.h"

namespace supernet::cpu::SUPERNET_ISA {

// 64 at a time, where the processor has VBMI: all but the first of those with VNNI.
__attribute__((target("avx512vbmi")))
inline void look_up_vectors(const uint8_t* table, int64_t n, uint8_t* values) {
  const auto a = _mm512_loadu_si512(table), b = _mm512_loadu_si512(table + 64), c = _mm512_loadu_si512(table + 128),
             d = _mm512_loadu_si512(table + 192);
  for (int64_t i = 0; i < n; i += 64) {
    const auto mask = n - i < 64 ? (__mmask64(1) << (n - i)) - 1 : ~__mmask64(0);
    const auto v = _mm512_maskz_loadu_epi8(mask, values + i);
    const auto low = _mm512_permutex2var_epi8(a, v, b), high = _mm512_permutex2var_epi8(c, v, d);
    _mm512_mask_storeu_epi8(values + i, mask, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(v), high));
  }
}

inline void look_up_fastest(const uint8_t* table, int64_t n, uint8_t* values) {
  static const bool vectors = __builtin_cpu_supports("avx512vbmi");
  (vectors ? &look_up_vectors : &look_up)(table, n, values);
}

} // namespace supernet::cpu::SUPERNET_ISA
