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

// A thread's part of its block's tile, [0, n) of a tensor. Asked for all at once, so that all are under way at once.
template <typename T>
struct MixTile {
  static constexpr int size = Vec<T>::size;
  Words v[kMixVectors];

  __device__ static int64_t at(int k) {
    return blockIdx.x * kMixTile<T> + (k * kMixThreads + threadIdx.x) * size;
  }
  template <bool kWhole>
  __device__ __forceinline__ void load(const T* from, int64_t n) {
#pragma unroll
    for (int k = 0; k < kMixVectors; ++k) {
      v[k] = load_words<kWhole>(from, at(k), n);
    }
  }
  template <bool kWhole>
  __device__ __forceinline__ void store(T* to, int64_t n) const {
#pragma unroll
    for (int k = 0; k < kMixVectors; ++k) {
      store_vec<kWhole>(to, at(k), n, v[k].template as<T>());
    }
  }
};

// Whether the block's tile lies in [0, n) and all is accessed 16 bytes at a time.
template <typename T>
__device__ __forceinline__ bool whole_tile(int64_t n, bool aligned) {
  return aligned && (blockIdx.x + 1) * kMixTile<T> <= n;
}

template <typename T, typename Acc, int kMax>
__global__ void __launch_bounds__(kMixThreads, 3)
    depth_mix_kernel(Pointers<const T, kMax> xs, const Acc* p, T* y, int64_t n, int depth, bool aligned) {
  constexpr int size = Vec<T>::size;
  with_whole(whole_tile<T>(n, aligned), [&](auto whole) {
    constexpr bool kWhole = decltype(whole)::value;
    Acc acc[kMixVectors][size] = {};
    MixTile<T> tile;
    for (int d = 0; d < depth; ++d) {
      const Acc weight = cuda::load(p + d);
      if (weight == Acc(0)) {
        continue; // not read; the same for every thread
      }
      tile.template load<kWhole>(xs.at[d], n);
#pragma unroll
      for (int k = 0; k < kMixVectors; ++k) {
        const auto x = tile.v[k].template as<T>();
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
      tile.v[k] = Words::of(out);
    }
    tile.template store<kWhole>(y, n);
  });
}

// grad_xs[d] = p[d] * grad, and partial[d * tiles + tile] = <grad, xs[d]> over the tile. (The second
// launch bound, blocks that a multiprocessor should hold, is the largest at which ptxas spills nothing.)
template <typename T, typename Acc, int kMax>
__global__ void __launch_bounds__(kMixThreads, sizeof(T) == 2 ? 2 : 3) depth_mix_backward_kernel(
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
  with_whole(whole_tile<T>(n, aligned), [&](auto whole) {
    constexpr bool kWhole = decltype(whole)::value;
    MixTile<T> g, tile;
    g.template load<kWhole>(grad, n);
    for (int d = 0; d < depth; ++d) {
      const Acc weight = cuda::load(p + d);
      Acc dot = 0;
      tile.template load<kWhole>(xs.at[d], n);
#pragma unroll
      for (int k = 0; k < kMixVectors; ++k) {
        const auto above = g.v[k].template as<T>(), x = tile.v[k].template as<T>();
        Vec<T> out;
#pragma unroll
        for (int j = 0; j < size; ++j) {
          const Acc value = static_cast<Acc>(above.v[j]);
          dot += value * static_cast<Acc>(x.v[j]);
          // 0 * inf would be NaN: an entry that is off gets gradient 0 from any grad.
          out.v[j] = static_cast<T>(weight == Acc(0) ? Acc(0) : weight * value);
        }
        tile.v[k] = Words::of(out);
      }
      tile.template store<kWhole>(grad_xs.at[d], n);
      const Acc sum = block_sum(dot, scratch);
      if (threadIdx.x == 0) {
        store(partial + int64_t(d) * gridDim.x + blockIdx.x, sum);
      }
    }
  });
}

// grad_p[d] = the sum of partial[d * tiles ...]; one block for each d.
template <typename Acc>
__global__ void __launch_bounds__(kMixThreads)
    depth_mix_sum_kernel(const Acc* partial, Acc* grad_p, int64_t tiles) {
  SUPERNET_SHARED(Acc, scratch, kMixThreads / 32);
  Acc value = 0;
  for (int64_t i = threadIdx.x; i < tiles; i += kMixThreads) {
    value += cuda::load(partial + blockIdx.x * tiles + i);
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
