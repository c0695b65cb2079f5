// Mixtures of tensors: sums weighted by one factor per tensor, and their gradients.
#pragma once

#include "cpu/kernels/vector_ops.h"

namespace supernet::cpu::SUPERNET_ISA {

// Vectors at a time: one cache line or more of every tensor.
constexpr int kMixVectors = 4;
// Bytes that the streams, too many for the processor's own prefetcher, are fetched ahead.
constexpr int64_t kMixLead = 1024;

template <class V, typename T>
SUPERNET_INLINE void prefetch_mix(const T* p) {
  if constexpr (V::kFetchesMixtures) {
    SUPERNET_UNROLL
    for (int i = 0; i < kMixVectors * V::kSize; i += kLine<T>) {
      prefetch(p + i + kMixLead / sizeof(T));
    }
  }
}

template <class V, typename T>
SUPERNET_INLINE void prefetch_mix_to_write(const T* p) {
  if constexpr (V::kFetchesMixtures) {
    SUPERNET_UNROLL
    for (int i = 0; i < kMixVectors * V::kSize; i += kLine<T>) {
      prefetch_to_write(p + i + kMixLead / sizeof(T));
    }
  }
}

// y = sum_d p[d] xs[d] over n values; where p[d] is 0, xs[d] is not read.
template <class V, typename T>
void mix(const T* const* xs, const typename V::Scalar* p, int64_t depth, int64_t n, T* y) {
  constexpr int64_t step = kMixVectors * V::kSize;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    V acc[kMixVectors];
    SUPERNET_UNROLL
    for (int v = 0; v < kMixVectors; ++v) {
      acc[v] = V::zero();
    }
    for (int64_t d = 0; d < depth; ++d) {
      if (p[d] != 0) {
        const V weight = V::set(p[d]);
        prefetch_mix<V>(xs[d] + i);
        SUPERNET_UNROLL
        for (int v = 0; v < kMixVectors; ++v) {
          acc[v] = V::fma(weight, V::load(xs[d] + i + v * V::kSize), acc[v]);
        }
      }
    }
    prefetch_mix_to_write<V>(y + i);
    SUPERNET_UNROLL
    for (int v = 0; v < kMixVectors; ++v) {
      acc[v].store(y + i + v * V::kSize);
    }
  }
  for (; i < n; i += V::kSize) {
    const auto mask = V::mask(n - i);
    V acc = V::zero();
    for (int64_t d = 0; d < depth; ++d) {
      if (p[d] != 0) {
        acc = V::fma(V::set(p[d]), V::load(xs[d] + i, mask), acc);
      }
    }
    acc.store(y + i, mask);
  }
}

// grad_x = p grad; returns <grad, x>. 0 * inf would be NaN: where p is 0 the gradient is 0 from any grad.
template <class V, typename T>
typename V::Scalar mix_grad(
    const T* grad, const T* x, typename V::Scalar p, int64_t n, T* grad_x) {
  constexpr int64_t step = kMixVectors * V::kSize;
  const V weight = V::set(p);
  V dots[kMixVectors];
  SUPERNET_UNROLL
  for (int v = 0; v < kMixVectors; ++v) {
    dots[v] = V::zero();
  }
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    prefetch_mix<V>(x + i);
    prefetch_mix_to_write<V>(grad_x + i);
    SUPERNET_UNROLL
    for (int v = 0; v < kMixVectors; ++v) {
      const auto at = i + v * V::kSize;
      const V g = V::load(grad + at);
      dots[v] = V::fma(g, V::load(x + at), dots[v]);
      (p == 0 ? V::zero() : weight * g).store(grad_x + at);
    }
  }
  for (; i < n; i += V::kSize) {
    const auto mask = V::mask(n - i);
    const V g = V::load(grad + i, mask);
    dots[0] = V::fma(g, V::load(x + i, mask), dots[0]);
    (p == 0 ? V::zero() : weight * g).store(grad_x + i, mask);
  }
  typename V::Scalar lanes[V::kSize], sum = 0;
  (dots[0] + dots[1] + (dots[2] + dots[3])).store(lanes);
  for (const auto lane : lanes) {
    sum += lane;
  }
  return sum;
}

} // namespace supernet::cpu::SUPERNET_ISA
