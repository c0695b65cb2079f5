// Device code of depth_mix. No ATen: nvcc compiles it, and so can a host compiler that defines CUDA's names.
//
// A block owns a tile of kTile elements; a thread keeps its part of the tile in registers and runs over the
// depth, so each tensor is read or written once. The gradient of p is summed in a fixed order (in the thread,
// in the warp, over the warps, over the tiles), so it is the same from run to run: no atomics.
#pragma once

#include <cstdint>

namespace supernet::cuda {

constexpr int kThreads = 256;
constexpr int kVectors = 4; // vectors of 16 bytes that one thread holds
constexpr int kWarps = kThreads / 32;
constexpr unsigned kFullMask = 0xffffffffu;

template <typename T>
struct alignas(16) Vec {
  static constexpr int size = 16 / sizeof(T);
  T v[size];
};

// Elements in one block's tile.
template <typename T>
constexpr int64_t kTile = int64_t(kThreads) * kVectors * Vec<T>::size;

// Passed by value, so that a launch needs no copy to the device.
template <typename T, int kMax>
struct Pointers {
  T* at[kMax];
};

// Reads 16 bytes, or the elements left before n, or none; zero beyond. `aligned` says whether the base allows
// accesses of 16 bytes.
template <typename T>
__device__ inline Vec<T> load(const T* base, int64_t i, int64_t n, bool aligned) {
  if (aligned && i + Vec<T>::size <= n) {
    return *reinterpret_cast<const Vec<T>*>(base + i);
  }
  Vec<T> out;
#pragma unroll
  for (int j = 0; j < Vec<T>::size; ++j) {
    out.v[j] = i + j < n ? base[i + j] : static_cast<T>(0.f);
  }
  return out;
}

template <typename T>
__device__ inline void store(T* base, int64_t i, int64_t n, bool aligned, const Vec<T>& value) {
  if (aligned && i + Vec<T>::size <= n) {
    *reinterpret_cast<Vec<T>*>(base + i) = value;
    return;
  }
#pragma unroll
  for (int j = 0; j < Vec<T>::size; ++j) {
    if (i + j < n) {
      base[i + j] = value.v[j];
    }
  }
}

// The sum over the block, in thread 0. `scratch` holds kWarps values; every thread of the block must call it.
template <typename Acc>
__device__ inline Acc block_sum(Acc value, Acc* scratch) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value += __shfl_down_sync(kFullMask, value, lanes);
  }
  __syncthreads(); // scratch may still be read from the last call
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = value;
  }
  __syncthreads();
  Acc sum = 0;
  if (threadIdx.x == 0) {
    for (int w = 0; w < kWarps; ++w) {
      sum += scratch[w];
    }
  }
  return sum;
}

template <typename T, typename Acc, int kMax>
__global__ void __launch_bounds__(kThreads)
    depth_mix_kernel(Pointers<const T, kMax> xs, const Acc* p, T* y, int64_t n, int depth, bool aligned) {
  constexpr int size = Vec<T>::size;
  const int64_t first = blockIdx.x * kTile<T> + threadIdx.x * size;
  Acc acc[kVectors][size] = {};
  for (int d = 0; d < depth; ++d) {
    const Acc weight = p[d];
    if (weight == Acc(0)) {
      continue; // not read; the same for every thread
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const auto x = load(xs.at[d], first + int64_t(k) * kThreads * size, n, aligned);
#pragma unroll
      for (int j = 0; j < size; ++j) {
        acc[k][j] += weight * static_cast<Acc>(x.v[j]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    Vec<T> out;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      out.v[j] = static_cast<T>(acc[k][j]);
    }
    store(y, first + int64_t(k) * kThreads * size, n, aligned, out);
  }
}

// grad_xs[d] = p[d] * grad, and partial[d * tiles + tile] = <grad, xs[d]> over the tile.
template <typename T, typename Acc, int kMax>
__global__ void __launch_bounds__(kThreads) depth_mix_backward_kernel(
    const T* grad,
    Pointers<const T, kMax> xs,
    const Acc* p,
    Pointers<T, kMax> grad_xs,
    Acc* partial,
    int64_t n,
    int depth,
    bool aligned) {
  constexpr int size = Vec<T>::size;
  __shared__ Acc scratch[kWarps];
  const int64_t first = blockIdx.x * kTile<T> + threadIdx.x * size;
  Vec<T> g[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    g[k] = load(grad, first + int64_t(k) * kThreads * size, n, aligned);
  }
  for (int d = 0; d < depth; ++d) {
    const Acc weight = p[d];
    Acc dot = 0;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int64_t i = first + int64_t(k) * kThreads * size;
      const auto x = load(xs.at[d], i, n, aligned);
      Vec<T> out;
#pragma unroll
      for (int j = 0; j < size; ++j) {
        const Acc value = static_cast<Acc>(g[k].v[j]);
        dot += value * static_cast<Acc>(x.v[j]);
        // 0 * inf would be NaN: an entry that is off gets gradient 0 from any grad.
        out.v[j] = static_cast<T>(weight == Acc(0) ? Acc(0) : weight * value);
      }
      store(grad_xs.at[d], i, n, aligned, out);
    }
    const Acc sum = block_sum(dot, scratch);
    if (threadIdx.x == 0) {
      partial[int64_t(d) * gridDim.x + blockIdx.x] = sum;
    }
  }
}

// grad_p[d] = the sum of partial[d * tiles ...]; one block for each d.
template <typename Acc>
__global__ void __launch_bounds__(kThreads)
    depth_mix_sum_kernel(const Acc* partial, Acc* grad_p, int64_t tiles) {
  __shared__ Acc scratch[kWarps];
  Acc value = 0;
  for (int64_t i = threadIdx.x; i < tiles; i += kThreads) {
    value += partial[blockIdx.x * tiles + i];
  }
  const Acc sum = block_sum(value, scratch);
  if (threadIdx.x == 0) {
    grad_p[blockIdx.x] = sum;
  }
}

} // namespace supernet::cuda
