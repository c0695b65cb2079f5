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

} // namespace supernet::cpu::generic
