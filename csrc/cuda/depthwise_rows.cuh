// Parts of kernels with a depthwise convolution in shared memory: a block's source rows and taps, and their products.
#pragma once

#include "cuda/depthwise_plan.cuh"
#include "cuda/norm_act.cuh"

namespace supernet::cuda {

// What a thread loads, and its place in shared memory; a negative place is that of ~at, with nothing loaded for it.
struct Fetched {
  Words words;
  int at;
};

// Calls use(load(row, column, v)) for all pixels of a rectangle and each vector of their channels, the block's threads
// side by side; v is the vector's first channel, the same in all of a thread's calls. kBatch vectors are loaded before
// the first is used: one in flight for each thread does not fill the way to memory. Then `use` is made anew, by
// make_use(v), so that what it needs takes no registers while the loads are under way.
template <typename T, int kChannels, int kBatch, typename Load, typename MakeUse>
__device__ __forceinline__ void for_vectors(int rows, int columns, Load load, MakeUse make_use) {
  constexpr int vectors = kChannels / Vec<T>::size, step = kDepthwiseThreads / vectors;
  const int first = threadIdx.x / vectors, v = threadIdx.x % vectors * Vec<T>::size;
  int row = first / columns, column = first % columns;
#pragma unroll 1
  while (row < rows) {
    Fetched fetched[kBatch];
    int count = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (row < rows) {
        fetched[b] = load(row, column, v);
        ++count;
      }
      for (column += step; column >= columns; column -= columns) {
        ++row;
      }
    }
    const auto use = make_use(v);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (b < count) {
        use(fetched[b]);
      }
    }
  }
}

constexpr int kRowLoads = 4; // of 16 bytes that a thread has in flight

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
  with_whole(aligned, [&](auto whole) {
    constexpr bool kWhole = decltype(whole)::value;
    for_vectors<T, kChannels, kWhole ? kRowLoads : 1>(
        rows, columns,
        [&](int row, int column, int v) {
          const int y = top + row, x = left + column;
          const bool inside = 0 <= y && y < height && 0 <= x && x < width && channel + v < channels;
          const int ring_row = slot + row < slots ? slot + row : slot + row - slots;
          const int at = (ring_row * columns + column) * kPixel<T, kChannels>;
          const T* const pixel = image + (int64_t(y) * width + x) * channels;
          return inside ? Fetched{load_words<kWhole>(pixel, channel + v, channels), at} : Fetched{{}, ~at};
        },
        [&](int v) {
          return [to = ring + v, through = read.template for_channels<T>(v)](const Fetched& fetched) {
            *counted(reinterpret_cast<Vec<T>*>(to + (fetched.at < 0 ? ~fetched.at : fetched.at))) =
                fetched.at < 0 ? Vec<T>{} : through(fetched.words.template as<T>());
          };
        });
  });
}

// taps [kTaps][kTapRow] = value(channel, tap) for kChannels. A warp turns eight taps of four channels at a time: the
// weight has a channel's taps side by side, and is read by runs of them.
template <int kThreads, int kChannels, int kTaps, typename Value>
__device__ __forceinline__ void fill_taps(float* taps, Value value) {
  constexpr int quads = kChannels / kQuad, octets = (kTaps + 7) / 8;
#pragma unroll 1
  for (int i = threadIdx.x / 32; i < quads * octets; i += kThreads / 32) {
    const int channel = i % quads * kQuad + threadIdx.x % 32 / 8, tap = i / quads * 8 + threadIdx.x % 8;
    if (tap < kTaps) {
      store_shared(taps + tap * kTapRow<kChannels> + channel, value(channel, tap));
    }
  }
}

// The weight [channels, K, K] of 32 channels as floats [K * K][kTapRow]; 0 beyond the last. Says whether one is not 0,
// after the next barrier, in *any, which is 0 before.
template <int K, typename T>
__device__ void load_taps(const T* weight, int channels, int channel, float* taps, int* any) {
  fill_taps<kDepthwiseThreads, kDepthwiseChannels, K * K>(taps, [&](int c, int tap) {
    const float value = channel + c < channels
        ? static_cast<float>(cuda::load(weight + int64_t(channel + c) * K * K + tap))
        : 0.f;
    if (value != 0.f) {
      *any = 1; // from any thread, always the same
    }
    return value;
  });
}

// sums[j] += what one source row gives to output j of a strip. `row` points to the strip's first source element, kNext
// elements from pixel to pixel and kGap more after every eighth, `taps` to the row's first tap, [K][kTapRow], both at
// this thread's channels.
template <typename Window, int kNext, int kChannels, int kGap = 0, int kOutputs, typename T>
__device__ __forceinline__ void add_row(float (&sums)[kOutputs][kQuad], const T* row, const float* taps) {
  Quad weight[Window::kernel];
#pragma unroll
  for (int k = 0; k < Window::kernel; ++k) {
    weight[k] = load_quad(taps + k * kTapRow<kChannels>);
  }
#pragma unroll
  for (int i = 0; i < Window::span(kOutputs); ++i) {
    const Quad x = load_quad(row + i * kNext + i / 8 * kGap);
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
