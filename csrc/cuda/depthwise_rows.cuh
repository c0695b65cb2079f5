// Parts of kernels with a depthwise convolution in shared memory: a block's source rows and taps, and their products.
#pragma once

#include "cuda/depthwise_plan.cuh"
#include "cuda/norm_act.cuh"

namespace supernet::cuda {

// Calls visit(row, column, v) for all pixels of a rectangle and each vector of their channels, the block's threads side
// by side; v is the vector's first channel, the same in all of a thread's calls.
template <typename T, int kChannels = kDepthwiseChannels, typename Visit>
__device__ __forceinline__ void for_vectors(int rows, int columns, Visit visit) {
  constexpr int vectors = kChannels / Vec<T>::size, step = kDepthwiseThreads / vectors;
  const int first = threadIdx.x / vectors, v = threadIdx.x % vectors * Vec<T>::size;
  int row = first / columns, column = first % columns;
  while (row < rows) {
    visit(row, column, v);
    for (column += step; column >= columns; column -= columns) {
      ++row;
    }
  }
}

// What load_rows makes of the vectors it loads: nothing else,
struct AsTheyAre {
  template <typename T>
  __device__ __forceinline__ auto for_channels(int) const {
    return [](const Vec<T>& value) { return value; };
  }
};

// or what a batch norm with its activation makes of them.
template <int kChannels>
struct ThroughNorm {
  SharedNorms<kChannels> norms;
  Activation act;

  template <typename T>
  __device__ __forceinline__ auto for_channels(int first) const {
    constexpr int size = Vec<T>::size;
    return [act = act, norms = norms.template read<size>(first)](const Vec<T>& value) {
      Vec<T> out;
#pragma unroll
      for (int j = 0; j < size; ++j) {
        out.v[j] = static_cast<T>(activate(act, norms.z(j, static_cast<float>(value.v[j]))));
      }
      return out;
    };
  }
};

// Rows of an image [height, width, channels] from `top` on, through `read`, to the slots of a ring from `slot` on; 0
// outside the image: padding is of what `read` gives.
template <int kChannels = kDepthwiseChannels, typename T, typename Read = AsTheyAre>
__device__ void load_rows(
    const T* image, int height, int width, int channels, bool aligned, int channel, int top, int rows, int left,
    int columns, T* ring, int slot, int slots, const Read& read = {}) {
  const auto through = read.template for_channels<T>(threadIdx.x % (kChannels / Vec<T>::size) * Vec<T>::size);
  for_vectors<T, kChannels>(rows, columns, [&](int row, int column, int v) {
    const int y = top + row, x = left + column;
    const bool inside = 0 <= y && y < height && 0 <= x && x < width;
    const T* const pixel = image + (int64_t(inside ? y : 0) * width + (inside ? x : 0)) * channels;
    const int at = slot + row < slots ? slot + row : slot + row - slots;
    const auto value = load_vec(pixel, channel + v, inside ? channels : 0, aligned);
    shared_vec(ring + (at * columns + column) * kPixel<T, kChannels> + v) = inside ? through(value) : value;
  });
}

// The weight [channels, K, K] of 32 channels as floats [K * K][32]; 0 beyond the last. Says whether one is not 0, after
// the next barrier, in *any, which is 0 before.
template <int K, typename T>
__device__ void load_taps(const T* weight, int channels, int channel, bool aligned, float* taps, int* any) {
  constexpr int count = kDepthwiseChannels * K * K, size = Vec<T>::size;
  for (int i = threadIdx.x * size; i < count; i += kDepthwiseThreads * size) {
    const auto values = load_vec(weight, int64_t(channel) * K * K + i, int64_t(channels) * K * K, aligned);
#pragma unroll
    for (int j = 0; j < size; ++j) {
      const float value = static_cast<float>(values.v[j]);
      taps[(i + j) % (K * K) * kDepthwiseChannels + (i + j) / (K * K)] = value;
      if (value != 0.f) {
        *any = 1; // from any thread, always the same
      }
    }
  }
}

// sums[j] += what one source row gives to output j of a strip. `row` points to the strip's first source element, kNext
// elements from pixel to pixel, `taps` to the row's first tap, [K][kChannels], both at this thread's channels.
template <typename Window, int kNext, int kChannels, int kOutputs, typename T>
__device__ __forceinline__ void add_row(float (&sums)[kOutputs][kQuad], const T* row, const float* taps) {
  Quad weight[Window::kernel];
#pragma unroll
  for (int k = 0; k < Window::kernel; ++k) {
    weight[k] = load_quad(taps + k * kChannels);
  }
#pragma unroll
  for (int i = 0; i < Window::span(kOutputs); ++i) {
    const Quad x = load_quad(row + i * kNext);
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      const int k = Window::tap(i, j);
      if (0 <= k && k < Window::kernel) {
#pragma unroll
        for (int c = 0; c < kQuad; ++c) {
          sums[j][c] += x.v[c] * weight[k].v[c];
        }
      }
    }
  }
}

} // namespace supernet::cuda
