// Vectors of 16 floats. Needs the target options of avx512.cpp or, with SUPERNET_NARROWS_BFLOAT16, of avx512_bf16.cpp
// and amx.cpp, or, with SUPERNET_MULTIPLIES_BYTES, of avx512_vnni.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace supernet::cpu::SUPERNET_ISA {

struct FloatVec {
  using Scalar = float;
  using Mask = __mmask16;
  static constexpr int kSize = 16;
  // Depthwise tiles in registers: worth their code here.
  static constexpr bool kTiled = true;
  static constexpr int kRegisters = 32;
#ifdef SUPERNET_NARROWS_BFLOAT16
  // Zen, most of what multiplies bfloat16 without AMX, fetches better by itself (docs/performance.md).
  static constexpr bool kFetchesWrites = false, kFetchesMixtures = false;
#else
  static constexpr bool kFetchesWrites = true, kFetchesMixtures = true;
#endif
  // Rows of a matrix tile of 1, 2 and 3 vectors: accumulators, one row of B and a broadcast fit 32 registers.
  static constexpr int kTileRows[] = {28, 14, 9};

  __m512 v;

  static Mask mask(int64_t lanes) {
    return lanes >= kSize ? 0xffff : static_cast<Mask>((1u << lanes) - 1);
  }
  static FloatVec zero() {
    return {_mm512_setzero_ps()};
  }
  static FloatVec set(float s) {
    return {_mm512_set1_ps(s)};
  }
  static FloatVec load(const float* p) {
    return {_mm512_loadu_ps(p)};
  }
  static FloatVec load(const float* p, Mask m) {
    return {_mm512_maskz_loadu_ps(m, p)};
  }
  static FloatVec load(const c10::BFloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static FloatVec load(const c10::BFloat16* p, Mask m) {
    return widen(_mm256_maskz_loadu_epi16(m, p));
  }
  void store(float* p) const {
    _mm512_storeu_ps(p, v);
  }
  void store(float* p, Mask m) const {
    _mm512_mask_storeu_ps(p, m, v);
  }
  void store(c10::BFloat16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow());
  }
  void store(c10::BFloat16* p, Mask m) const {
    _mm256_mask_storeu_epi16(p, m, narrow());
  }

#ifdef SUPERNET_NARROWS_BFLOAT16
  // a and b in bfloat16, behind each other.
  static __m512i pair(FloatVec a, FloatVec b) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.v, a.v));
  }
  // Of a Tail, the lanes of the masks.
  template <bool Tail>
  static void store_pair(FloatVec a, FloatVec b, c10::BFloat16* p, Mask of_a, Mask of_b) {
    if constexpr (Tail) {
      _mm512_mask_storeu_epi16(p, _mm512_kunpackw(of_b, of_a), pair(a, b));
    } else {
      _mm512_storeu_si512(p, pair(a, b));
    }
  }
#endif

  // a * b + c
  static FloatVec fma(FloatVec a, FloatVec b, FloatVec c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  // NaN in b is kept.
  static FloatVec max(FloatVec a, FloatVec b) {
    return {_mm512_max_ps(a.v, b.v)};
  }
  static FloatVec min(FloatVec a, FloatVec b) {
    return {_mm512_min_ps(a.v, b.v)};
  }
  static FloatVec round(FloatVec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // a 2^n, n whole.
  static FloatVec times_power_of_two(FloatVec a, FloatVec n) {
    return {_mm512_scalef_ps(a.v, n.v)};
  }
  // The processor's estimate and a step of Newton's, within two roundings.
  static FloatVec reciprocal(FloatVec a) {
    const auto r = _mm512_rcp14_ps(a.v);
    return {_mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1)), r)};
  }
  // x where a > b, else 0
  static FloatVec where_greater(FloatVec a, FloatVec b, FloatVec x) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), x.v)};
  }

 private:
  static FloatVec widen(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  // To bfloat16, nearest or even; NaN stays NaN.
  __m256i narrow() const {
#ifdef SUPERNET_NARROWS_BFLOAT16
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
#else
    const auto bits = _mm512_castps_si512(v);
    const auto odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const auto rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const auto nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16));
#endif
  }
};

// Not friends inside the class: GCC 12 gives those the target of the file.
inline FloatVec operator+(FloatVec a, FloatVec b) {
  return {_mm512_add_ps(a.v, b.v)};
}

inline FloatVec operator-(FloatVec a, FloatVec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}

inline FloatVec operator*(FloatVec a, FloatVec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}

// 16 times four bytes, and their sums: kernels/int8.h.
struct QuadVec {
  using Scalar = int32_t;
  using Floats = FloatVec;
  static constexpr int kSize = 16;
  // Rows of a matrix tile of 1 and 2 vectors.
#ifdef SUPERNET_MULTIPLIES_BYTES
  static constexpr int kTileRows[] = {14, 14};
#else
  static constexpr int kTileRows[] = {14, 10};
#endif

  __m512i v;

  static QuadVec set(int32_t s) {
    return {_mm512_set1_epi32(s)};
  }
  static QuadVec load(const int32_t* p) {
    return {_mm512_loadu_si512(p)};
  }
  void store(int32_t* p) const {
    _mm512_storeu_si512(p, v);
  }
  // The four bytes at p, p + stride, …
  static QuadVec gather(const int8_t* p, int64_t stride) {
    const auto lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
    return {_mm512_i32gather_epi32(offsets, p, 1)};
  }
  // The first `lanes` of them.
  static QuadVec load_bytes(const uint8_t* p, int64_t lanes = kSize) {
    return {_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(FloatVec::mask(lanes), p))};
  }

  static QuadVec fma(QuadVec a, QuadVec b, QuadVec sum) {
#ifdef SUPERNET_MULTIPLIES_BYTES
    return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)};
#else
    const auto even = _mm512_madd_epi16(
        _mm512_and_si512(a.v, _mm512_set1_epi16(0xff)), _mm512_srai_epi16(_mm512_slli_epi16(b.v, 8), 8));
    const auto odd = _mm512_madd_epi16(_mm512_srli_epi16(a.v, 8), _mm512_srai_epi16(b.v, 8));
    return {_mm512_add_epi32(sum.v, _mm512_add_epi32(even, odd))};
#endif
  }
  // Without the first byte, and with `last` behind the others, of which the bits of `turned` are turned.
  static QuadVec push(QuadVec quad, QuadVec last, QuadVec turned) {
    constexpr int kOrThenXor = 0x56;
    return {_mm512_ternarylogic_epi32(
        _mm512_srli_epi32(quad.v, 8), _mm512_slli_epi32(last.v, 24), turned.v, kOrThenXor)};
  }
  FloatVec floats() const {
    return {_mm512_cvtepi32_ps(v)};
  }
  // To the nearest, halves to even.
  static QuadVec rounded(FloatVec real) {
    return {_mm512_cvtps_epi32(real.v)};
  }

  // Bytes of two vectors behind each other.
  struct Bytes {
    __m256i v;

    void store(uint8_t* p, int64_t lanes) const {
      _mm256_mask_storeu_epi8(p, lanes >= 2 * kSize ? ~__mmask32(0) : (__mmask32(1) << lanes) - 1, v);
    }
    // The first half behind the second one, which may be at the same place.
    void store_halves(uint8_t* p, uint8_t* q) const {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm256_extracti128_si256(v, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(v));
    }
  };
  // Plus `zero`, clamped to bytes, and `flip` turned.
  static Bytes narrow(QuadVec a, QuadVec b, int32_t zero, uint8_t flip) {
    const auto words = _mm512_adds_epi16(
        _mm512_packs_epi32(a.v, b.v), _mm512_set1_epi16(static_cast<int16_t>(zero)));
    const auto order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    const auto bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, words));
    return {_mm256_xor_si256(_mm512_castsi512_si256(bytes), _mm256_set1_epi8(static_cast<char>(flip)))};
  }
};

inline QuadVec operator+(QuadVec a, QuadVec b) {
  return {_mm512_add_epi32(a.v, b.v)};
}

inline QuadVec operator-(QuadVec a, QuadVec b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}

inline QuadVec operator^(QuadVec a, QuadVec b) {
  return {_mm512_xor_si512(a.v, b.v)};
}

} // namespace supernet::cpu::SUPERNET_ISA
