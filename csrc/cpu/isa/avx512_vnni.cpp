// For AVX-512 with products of bytes (VNNI): inference on 8-bit values; all else is AVX-512's.
//
// Every header of others comes before the target options: what it defines may be merged with copies from
// other files, which must run on any processor. All that follows lives in a namespace of this instruction
// set.
#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics begin from "undefined" vectors, which it then warns of.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/int8_kernels.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")
#endif

#define SUPERNET_ISA avx512_vnni
#define SUPERNET_MULTIPLIES_BYTES
#include "cpu/isa/vec_avx512.h"
// behind the vectors
#include "cpu/kernels/int8.h"

namespace supernet::cpu::avx512_vnni {
namespace {

// 64 at a time, where the processor has VBMI: all but the first of those with VNNI.
__attribute__((target("avx512vbmi"))) void look_up_vectors(const uint8_t* table, int64_t n, uint8_t* values) {
  const auto a = _mm512_loadu_si512(table), b = _mm512_loadu_si512(table + 64), c = _mm512_loadu_si512(table + 128),
             d = _mm512_loadu_si512(table + 192);
  for (int64_t i = 0; i < n; i += 64) {
    const auto mask = n - i < 64 ? (__mmask64(1) << (n - i)) - 1 : ~__mmask64(0);
    const auto v = _mm512_maskz_loadu_epi8(mask, values + i);
    const auto low = _mm512_permutex2var_epi8(a, v, b), high = _mm512_permutex2var_epi8(c, v, d);
    _mm512_mask_storeu_epi8(values + i, mask, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(v), high));
  }
}

void look_up_fastest(const uint8_t* table, int64_t n, uint8_t* values) {
  static const bool vectors = __builtin_cpu_supports("avx512vbmi");
  (vectors ? &look_up_vectors : &look_up)(table, n, values);
}

} // namespace

const Int8Kernels int8_kernels = make_int8_kernels<QuadVec>(&look_up_fastest);

} // namespace supernet::cpu::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
