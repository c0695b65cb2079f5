// Vectors of 8 floats. Needs the target options of avx2.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace supernet::cpu::avx2 {

struct FloatVec {
  using Scalar = float;
  struct Mask {
    __m256i lanes;
    int count;
  };
  static constexpr int kSize = 8;
  // Depthwise tiles in registers: worth their code here.
  static constexpr bool kTiled = true;
  static constexpr int kRegisters = 16;
  static constexpr bool kFetchesWrites = true, kFetchesMixtures = true;
  // Rows of a matrix tile of 1, 2 and 3 vectors: accumulators, one row of B and a broadcast fit 16 registers.
  static constexpr int kTileRows[] = {12, 6, 4};

  __m256 v;

  static Mask mask(int64_t lanes) {
    const int count = lanes >= kSize ? kSize : static_cast<int>(lanes);
    const auto index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_cmpgt_epi32(_mm256_set1_epi32(count), index), count};
  }
  static FloatVec zero() {
    return {_mm256_setzero_ps()};
  }
  static FloatVec set(float s) {
    return {_mm256_set1_ps(s)};
  }
  static FloatVec load(const float* p) {
    return {_mm256_loadu_ps(p)};
  }
  static FloatVec load(const float* p, Mask m) {
    return {_mm256_maskload_ps(p, m.lanes)};
  }
  static FloatVec load(const c10::BFloat16* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static FloatVec load(const c10::BFloat16* p, Mask m) {
    alignas(16) uint16_t bits[kSize] = {};
    __builtin_memcpy(bits, p, 2 * m.count);
    return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(bits)));
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, v);
  }
  void store(float* p, Mask m) const {
    _mm256_maskstore_ps(p, m.lanes, v);
  }
  void store(c10::BFloat16* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow());
  }
  void store(c10::BFloat16* p, Mask m) const {
    alignas(16) uint16_t bits[kSize];
    _mm_store_si128(reinterpret_cast<__m128i*>(bits), narrow());
    __builtin_memcpy(static_cast<void*>(p), bits, 2 * m.count);
  }

  // a * b + c
  static FloatVec fma(FloatVec a, FloatVec b, FloatVec c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
  }
  // NaN in b is kept.
  static FloatVec max(FloatVec a, FloatVec b) {
    return {_mm256_max_ps(a.v, b.v)};
  }
  static FloatVec min(FloatVec a, FloatVec b) {
    return {_mm256_min_ps(a.v, b.v)};
  }
  static FloatVec round(FloatVec a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // a 2^n, n whole, for results that are not subnormal.
  static FloatVec times_power_of_two(FloatVec a, FloatVec n) {
    const auto exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), exponent))};
  }
  // The processor's estimate and a step of Newton's, within two roundings.
  static FloatVec reciprocal(FloatVec a) {
    const auto r = _mm256_rcp_ps(a.v);
    return {_mm256_fmadd_ps(r, _mm256_fnmadd_ps(a.v, r, _mm256_set1_ps(1)), r)};
  }
  // x where a > b, else 0
  static FloatVec where_greater(FloatVec a, FloatVec b, FloatVec x) {
    return {_mm256_and_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ), x.v)};
  }

 private:
  static FloatVec widen(__m128i bits) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  // To bfloat16, nearest or even; NaN stays NaN.
  __m128i narrow() const {
    const auto bits = _mm256_castps_si256(v);
    const auto odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    auto rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const auto nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  }
};

// Not friends inside the class: GCC 12 gives those the target of the file.
inline FloatVec operator+(FloatVec a, FloatVec b) {
  return {_mm256_add_ps(a.v, b.v)};
}

inline FloatVec operator-(FloatVec a, FloatVec b) {
  return {_mm256_sub_ps(a.v, b.v)};
}

inline FloatVec operator*(FloatVec a, FloatVec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}

// 8 times four bytes, and their sums: kernels/int8.h.
struct QuadVec {
  using Scalar = int32_t;
  using Floats = FloatVec;
  static constexpr int kSize = 8;
  // Rows of a matrix tile of 1 and 2 vectors.
  static constexpr int kTileRows[] = {6, 4};

  __m256i v;

  static QuadVec set(int32_t s) {
    return {_mm256_set1_epi32(s)};
  }
  static QuadVec load(const int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  void store(int32_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  // The four bytes at p, p + stride, …
  static QuadVec gather(const int8_t* p, int64_t stride) {
    int32_t quads[kSize];
    for (int i = 0; i < kSize; ++i) {
      __builtin_memcpy(quads + i, p + i * stride, 4);
    }
    return load(quads);
  }
  // The first `lanes` of them.
  static QuadVec load_bytes(const uint8_t* p, int64_t lanes = kSize) {
    uint8_t few[kSize] = {};
    if (lanes < kSize) {
      __builtin_memcpy(few, p, static_cast<size_t>(lanes > 0 ? lanes : 0));
      p = few;
    }
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
  }

  static QuadVec fma(QuadVec a, QuadVec b, QuadVec sum) {
    const auto even = _mm256_madd_epi16(
        _mm256_and_si256(a.v, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(b.v, 8), 8));
    const auto odd = _mm256_madd_epi16(_mm256_srli_epi16(a.v, 8), _mm256_srai_epi16(b.v, 8));
    return {_mm256_add_epi32(sum.v, _mm256_add_epi32(even, odd))};
  }
  // Without the first byte, and with `last` behind the others, of which the bits of `turned` are turned.
  static QuadVec push(QuadVec quad, QuadVec last, QuadVec turned) {
    const auto other = _mm256_xor_si256(_mm256_slli_epi32(last.v, 24), turned.v);
    return {_mm256_or_si256(_mm256_srli_epi32(quad.v, 8), other)};
  }
  FloatVec floats() const {
    return {_mm256_cvtepi32_ps(v)};
  }
  // To the nearest, halves to even.
  static QuadVec rounded(FloatVec real) {
    return {_mm256_cvtps_epi32(real.v)};
  }

  // Bytes of two vectors behind each other.
  struct Bytes {
    __m128i v;

    void store(uint8_t* p, int64_t lanes) const {
      if (lanes >= 2 * kSize) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
      } else {
        __builtin_memcpy(p, &v, static_cast<size_t>(lanes));
      }
    }
    // The first half behind the second one, which may be at the same place.
    void store_halves(uint8_t* p, uint8_t* q) const {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(q), _mm_unpackhi_epi64(v, v));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), v);
    }
  };
  // Plus `zero`, clamped to bytes, and `flip` turned.
  static Bytes narrow(QuadVec a, QuadVec b, int32_t zero, uint8_t flip) {
    const auto words = _mm256_adds_epi16(
        _mm256_packs_epi32(a.v, b.v), _mm256_set1_epi16(static_cast<int16_t>(zero)));
    const auto bytes = _mm256_permutevar8x32_epi32(
        _mm256_packus_epi16(words, words), _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    return {_mm_xor_si128(_mm256_castsi256_si128(bytes), _mm_set1_epi8(static_cast<char>(flip)))};
  }
};

inline QuadVec operator+(QuadVec a, QuadVec b) {
  return {_mm256_add_epi32(a.v, b.v)};
}

inline QuadVec operator-(QuadVec a, QuadVec b) {
  return {_mm256_sub_epi32(a.v, b.v)};
}

inline QuadVec operator^(QuadVec a, QuadVec b) {
  return {_mm256_xor_si256(a.v, b.v)};
}

} // namespace supernet::cpu::avx2
