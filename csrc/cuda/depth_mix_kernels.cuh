// depth_mix on the device. common.cuh says by which rules.
//
// A block owns a tile of kMixTile elements; a thread keeps its part of the tile in registers and runs over the
// depth, so each tensor is read or written once. The gradient of p is summed in a fixed order (in the thread,
// in the warp, over the warps, over the tiles), so it is the same from run to run: no atomics.
#pragma once

#include "cuda/common.cuh"

namespace supernet::cuda {

constexpr int kMixThreads = 256;
constexpr int kMixVectors = 4; // vectors of 16 bytes that one thread holds

// Elements in one block's tile.
template <typename T>
constexpr int64_t kMixTile = int64_t(kMixThreads) * kMixVectors * Vec<T>::size;

// Passed by value, so that a launch needs no copy to the device.
template <typename T, int kMax>
struct Pointers {
  T* at[kMax];
};

template <typename T, typename Acc, int kMax>
__global__ void __launch_bounds__(kMixThreads)
    depth_mix_kernel(Pointers<const T, kMax> xs, const Acc* p, T* y, int64_t n, int depth, bool aligned) {
  constexpr int size = Vec<T>::size;
  const int64_t first = blockIdx.x * kMixTile<T> + threadIdx.x * size;
  Acc acc[kMixVectors][size] = {};
  for (int d = 0; d < depth; ++d) {
    const Acc weight = load(p + d);
    if (weight == Acc(0)) {
      continue; // not read; the same for every thread
    }
#pragma unroll
    for (int k = 0; k < kMixVectors; ++k) {
      const auto x = load_vec(xs.at[d], first + int64_t(k) * kMixThreads * size, n, aligned);
#pragma unroll
      for (int j = 0; j < size; ++j) {
        acc[k][j] += weight * static_cast<Acc>(x.v[j]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kMixVectors; ++k) {
    Vec<T> out;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      out.v[j] = static_cast<T>(acc[k][j]);
    }
    store_vec(y, first + int64_t(k) * kMixThreads * size, n, aligned, out);
  }
}

// grad_xs[d] = p[d] * grad, and partial[d * tiles + tile] = <grad, xs[d]> over the tile. (Left alone ptxas takes 115
// registers for half; asked for three blocks on a multiprocessor 77, asked for four it spills.)
template <typename T, typename Acc, int kMax>
__global__ void __launch_bounds__(kMixThreads, 3) depth_mix_backward_kernel(
    const T* grad,
    Pointers<const T, kMax> xs,
    const Acc* p,
    Pointers<T, kMax> grad_xs,
    Acc* partial,
    int64_t n,
    int depth,
    bool aligned) {
  constexpr int size = Vec<T>::size;
  SUPERNET_SHARED(Acc, scratch, kMixThreads / 32);
  const int64_t first = blockIdx.x * kMixTile<T> + threadIdx.x * size;
  Vec<T> g[kMixVectors];
#pragma unroll
  for (int k = 0; k < kMixVectors; ++k) {
    g[k] = load_vec(grad, first + int64_t(k) * kMixThreads * size, n, aligned);
  }
  for (int d = 0; d < depth; ++d) {
    const Acc weight = load(p + d);
    Acc dot = 0;
#pragma unroll
    for (int k = 0; k < kMixVectors; ++k) {
      const int64_t i = first + int64_t(k) * kMixThreads * size;
      const auto x = load_vec(xs.at[d], i, n, aligned);
      Vec<T> out;
#pragma unroll
      for (int j = 0; j < size; ++j) {
        const Acc value = static_cast<Acc>(g[k].v[j]);
        dot += value * static_cast<Acc>(x.v[j]);
        // 0 * inf would be NaN: an entry that is off gets gradient 0 from any grad.
        out.v[j] = static_cast<T>(weight == Acc(0) ? Acc(0) : weight * value);
      }
      store_vec(grad_xs.at[d], i, n, aligned, out);
    }
    const Acc sum = block_sum(dot, scratch);
    if (threadIdx.x == 0) {
      store(partial + int64_t(d) * gridDim.x + blockIdx.x, sum);
    }
  }
}

// grad_p[d] = the sum of partial[d * tiles ...]; one block for each d.
template <typename Acc>
__global__ void __launch_bounds__(kMixThreads)
    depth_mix_sum_kernel(const Acc* partial, Acc* grad_p, int64_t tiles) {
  SUPERNET_SHARED(Acc, scratch, kMixThreads / 32);
  Acc value = 0;
  for (int64_t i = threadIdx.x; i < tiles; i += kMixThreads) {
    value += load(partial + blockIdx.x * tiles + i);
  }
  const Acc sum = block_sum(value, scratch);
  if (threadIdx.x == 0) {
    store(grad_p + blockIdx.x, sum);
  }
}

// ---- launches ----

// Blocks of a launch, and columns of the `partial` that the backward pass needs.
template <typename T>
int64_t depth_mix_tiles(int64_t n) {
  return (n + kMixTile<T> - 1) / kMixTile<T>;
}

template <typename T, int kMax>
bool all_aligned(const Pointers<T, kMax>& pointers, int depth) {
  for (int d = 0; d < depth; ++d) {
    if (!is_aligned(pointers.at[d])) {
      return false;
    }
  }
  return true;
}

// y[i] = sum over d of p[d] * xs[d][i], i < n.
template <typename T, typename Acc, int kMax>
void depth_mix(const Pointers<const T, kMax>& xs, const Acc* p, T* y, int64_t n, int depth, Stream stream) {
  const bool aligned = all_aligned(xs, depth) && is_aligned(y);
  launch(
      depth_mix_kernel<T, Acc, kMax>, static_cast<unsigned>(depth_mix_tiles<T>(n)), kMixThreads, 0, stream, xs,
      p, y, n, depth, aligned);
}

// partial is a workspace of depth × tiles.
template <typename T, typename Acc, int kMax>
void depth_mix_backward(
    const T* grad,
    const Pointers<const T, kMax>& xs,
    const Acc* p,
    const Pointers<T, kMax>& grad_xs,
    Acc* grad_p,
    Acc* partial,
    int64_t n,
    int depth,
    Stream stream) {
  const bool aligned = is_aligned(grad) && all_aligned(xs, depth) && all_aligned(grad_xs, depth);
  const auto tiles = depth_mix_tiles<T>(n);
  launch(
      depth_mix_backward_kernel<T, Acc, kMax>, static_cast<unsigned>(tiles), kMixThreads, 0, stream, grad, xs,
      p, grad_xs, partial, n, depth, aligned);
  launch(depth_mix_sum_kernel<Acc>, depth, kMixThreads, 0, stream, partial, grad_p, tiles);
}

} // namespace supernet::cuda
