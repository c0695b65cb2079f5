// Vectors of 16 bytes in the compiler's own terms: any processor, float and double.
#pragma once

#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>

namespace supernet::cpu::generic {

template <typename S>
struct Vec {
  using Scalar = S;
  using Mask = int64_t; // lanes in use
  static constexpr int kSize = 16 / sizeof(S);
  // Depthwise convolutions go output by output: 16 bytes a vector do not pay for the tiles' code.
  static constexpr bool kTiled = false;
  static constexpr int kRegisters = 16;
  // Whether passes over rows ask for the lines that they will write, and mixtures for any.
  static constexpr bool kFetchesWrites = true, kFetchesMixtures = true;
  // Rows of a matrix tile of 1, 2 and 3 vectors: accumulators, one row of B and a broadcast fit 16 registers.
  static constexpr int kTileRows[] = {12, 6, 4};
  typedef S Raw __attribute__((vector_size(16)));

  Raw v;

  static Mask mask(int64_t lanes) {
    return lanes >= kSize ? kSize : lanes;
  }
  static Vec zero() {
    return {Raw{}};
  }
  static Vec set(S s) {
    return {Raw{} + s};
  }
  static Vec load(const S* p) {
    Vec out;
    __builtin_memcpy(&out.v, p, sizeof(Raw));
    return out;
  }
  static Vec load(const c10::BFloat16* p) {
    return load(p, kSize);
  }
  template <typename T>
  static Vec load(const T* p, Mask m) {
    Vec out = zero();
    for (int64_t i = 0; i < m; ++i) {
      out.v[i] = static_cast<S>(p[i]);
    }
    return out;
  }
  void store(S* p) const {
    __builtin_memcpy(p, &v, sizeof(Raw));
  }
  void store(c10::BFloat16* p) const {
    store(p, kSize);
  }
  template <typename T>
  void store(T* p, Mask m) const {
    for (int64_t i = 0; i < m; ++i) {
      p[i] = static_cast<T>(v[i]);
    }
  }

  friend Vec operator+(Vec a, Vec b) {
    return {a.v + b.v};
  }
  friend Vec operator-(Vec a, Vec b) {
    return {a.v - b.v};
  }
  friend Vec operator*(Vec a, Vec b) {
    return {a.v * b.v};
  }
  // a * b + c
  static Vec fma(Vec a, Vec b, Vec c) {
    return {a.v * b.v + c.v};
  }
  // NaN in b is kept.
  static Vec max(Vec a, Vec b) {
    return {a.v > b.v ? a.v : b.v};
  }
  static Vec min(Vec a, Vec b) {
    return {a.v < b.v ? a.v : b.v};
  }
  static Vec exp(Vec a) {
    for (int i = 0; i < kSize; ++i) {
      a.v[i] = std::exp(a.v[i]);
    }
    return a;
  }
  static Vec reciprocal(Vec a) {
    return {1 / a.v};
  }
  // x where a > b, else 0
  static Vec where_greater(Vec a, Vec b, Vec x) {
    return {a.v > b.v ? x.v : Raw{}};
  }
};

// Four times four bytes, and their sums: kernels/int8.h.
struct QuadVec {
  using Scalar = int32_t;
  using Floats = Vec<float>;
  static constexpr int kSize = 4;
  static constexpr int kTileRows[] = {4, 4};
  typedef uint32_t Raw __attribute__((vector_size(16))); // which may overflow
  typedef int32_t Signed __attribute__((vector_size(16)));

  Raw v;

  static QuadVec set(int32_t s) {
    return {Raw{} + static_cast<uint32_t>(s)};
  }
  static QuadVec load(const int32_t* p) {
    QuadVec out;
    __builtin_memcpy(&out.v, p, sizeof(Raw));
    return out;
  }
  void store(int32_t* p) const {
    __builtin_memcpy(p, &v, sizeof(Raw));
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
    QuadVec out = set(0);
    for (int i = 0; i < kSize && i < lanes; ++i) {
      out.v[i] = p[i];
    }
    return out;
  }

  static QuadVec fma(QuadVec a, QuadVec b, QuadVec sum) {
    for (int shift = 0; shift < 32; shift += 8) {
      for (int i = 0; i < kSize; ++i) {
        sum.v[i] += static_cast<uint32_t>(
            static_cast<uint8_t>(a.v[i] >> shift) * static_cast<int8_t>(b.v[i] >> shift));
      }
    }
    return sum;
  }
  // Without the first byte, and with `last` behind the others, of which the bits of `turned` are turned.
  static QuadVec push(QuadVec quad, QuadVec last, QuadVec turned) {
    return {(quad.v >> 8 | last.v << 24) ^ turned.v};
  }
  Floats floats() const {
    return {__builtin_convertvector(reinterpret_cast<Signed>(v), Floats::Raw)};
  }
  // To the nearest, halves to even, of at most 2^22, below -2^22 to that: a sum with this number has steps of 1.
  static QuadVec rounded(Floats real) {
    const auto magic = Floats::set(12582912.f);
    const Floats::Raw sum = Floats::max(real, Floats::set(-4194304.f)).v + magic.v;
    return {reinterpret_cast<Raw>(sum) - reinterpret_cast<Raw>(magic.v)};
  }
  friend QuadVec operator+(QuadVec a, QuadVec b) {
    return {a.v + b.v};
  }
  friend QuadVec operator-(QuadVec a, QuadVec b) {
    return {a.v - b.v};
  }
  friend QuadVec operator^(QuadVec a, QuadVec b) {
    return {a.v ^ b.v};
  }

  // Bytes of two vectors behind each other.
  struct Bytes {
    uint8_t v[2 * kSize];

    void store(uint8_t* p, int64_t lanes) const {
      __builtin_memcpy(p, v, static_cast<size_t>(lanes < 2 * kSize ? lanes : 2 * kSize));
    }
    // The first half behind the second one, which may be at the same place.
    void store_halves(uint8_t* p, uint8_t* q) const {
      __builtin_memcpy(q, v + kSize, kSize);
      __builtin_memcpy(p, v, kSize);
    }
  };
  // Plus `zero`, clamped to bytes, and `flip` turned.
  static Bytes narrow(QuadVec a, QuadVec b, int32_t zero, uint8_t flip) {
    Bytes out;
    for (int i = 0; i < 2 * kSize; ++i) {
      const auto value = static_cast<int32_t>(i < kSize ? a.v[i] : b.v[i - kSize]) + zero;
      out.v[i] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value) ^ flip;
    }
    return out;
  }
};

} // namespace supernet::cpu::generic
