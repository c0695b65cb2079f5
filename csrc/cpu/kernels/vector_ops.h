// What every kernel uses. Included inside each instruction set's translation unit, behind its target options.
#pragma once

#define SUPERNET_INLINE inline __attribute__((always_inline))
#define SUPERNET_LAMBDA __attribute__((always_inline))
// Before a loop of constant length: it vanishes early, so that arrays of vectors indexed by its counter stay
// in registers.
#if defined(__clang__)
#define SUPERNET_UNROLL _Pragma("unroll")
#else
#define SUPERNET_UNROLL _Pragma("GCC unroll 64")
#endif

namespace supernet::cpu::SUPERNET_ISA {

SUPERNET_INLINE void prefetch(const void* p) {
#if defined(__x86_64__)
  // GCC 12 deletes _mm_prefetch in functions that return nothing.
  asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p);
#endif
}

SUPERNET_INLINE void prefetch_to_write(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p, 1);
#endif
}

// Keeps GCC from loading v anew wherever it is used.
template <class V>
SUPERNET_INLINE void in_register(V& v) {
  if constexpr (sizeof(v) >= 32) {
    asm("" : "+v"(v.v));
  }
}

// Values in a cache line.
template <typename S>
constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(S));

template <class V>
int64_t padded_to(int64_t channels) {
  return (channels + V::kSize - 1) / V::kSize * V::kSize;
}

template <class V, bool Tail, typename T>
SUPERNET_INLINE V load(const T* p, typename V::Mask mask) {
  if constexpr (Tail) {
    return V::load(p, mask);
  } else {
    return V::load(p);
  }
}

template <bool Tail, class V, typename T>
SUPERNET_INLINE void store(V v, T* p, typename V::Mask mask) {
  if constexpr (Tail) {
    v.store(p, mask);
  } else {
    v.store(p);
  }
}

// e^x for x in [-87, 88]. Of floats by Cephes's polynomial, within two roundings.
template <class V>
SUPERNET_INLINE V exponential(V x) {
  if constexpr (requires { V::exp(x); }) {
    return V::exp(x);
  } else {
    const V n = V::round(x * V::set(1.44269504f));
    const V r = V::fma(n, V::set(2.12194440e-4f), V::fma(n, V::set(-0.693359375f), x));
    V p = V::fma(V::set(1.9875691500e-4f), r, V::set(1.3981999507e-3f));
    p = V::fma(V::fma(p, r, V::set(8.3334519073e-3f)), r, V::set(4.1665795894e-2f));
    p = V::fma(V::fma(p, r, V::set(1.6666665459e-1f)), r, V::set(5.0000001201e-1f));
    return V::times_power_of_two(V::fma(p, r * r, r + V::set(1.f)), n);
  }
}

// 1 / (1 + e^-z), 0 below -80 and for NaN.
template <class V>
SUPERNET_INLINE V sigmoid(V z) {
  using S = typename V::Scalar;
  const V least = V::set(S(-80)), x = V::min(V::set(S(80)), V::max(least, V::zero() - z));
  return V::where_greater(z, least, V::reciprocal(V::set(S(1)) + exponential(x)));
}

template <class V>
SUPERNET_INLINE V activate(Activation act, V z) {
  using S = typename V::Scalar;
  switch (act) {
    case Activation::none:
      return z;
    case Activation::relu:
      return V::max(V::zero(), z);
    case Activation::relu6:
      return V::min(V::set(S(6)), V::max(V::zero(), z));
    case Activation::hard_swish:
      return z * V::min(V::set(S(1)), V::max(V::zero(), V::fma(z, V::set(S(1) / 6), V::set(S(0.5)))));
    case Activation::swish:
      return z * sigmoid(z);
  }
  return z;
}

} // namespace supernet::cpu::SUPERNET_ISA
