// How blocks divide the work of depthwise_conv2d, and of what stands before or behind it in the other operators: which
// source elements an output takes, which outputs a block computes, and the shared memory for that.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/common.cuh"

namespace supernet::cuda {

constexpr int kDepthwiseThreads = 128;
constexpr int kDepthwiseChannels = 32; // of a block
constexpr int kQuads = kDepthwiseChannels / kQuad; // a thread computes four channels
constexpr int kStrip = 4; // outputs of a thread
constexpr int kStrips = kDepthwiseThreads / kQuads; // of a block

// Elements from one pixel to the next in shared memory; with 16 bytes between those of less than 128, the threads that
// read at once find different banks.
template <typename T, int kChannels = kDepthwiseChannels>
constexpr int kPixel = kChannels + (kChannels * sizeof(T) < 128 ? 16 / sizeof(T) : 0);

// Floats from the taps of a row to those of the next, [K * K][kTapRow] in shared memory. Eight neighbouring taps of four
// neighbouring channels lie in different banks.
template <int kChannels = kDepthwiseChannels>
constexpr int kTapRow = kChannels + kQuad;

// ---- which source elements an output takes, and by which tap ----

// Along either axis: outputs first, first + 1, … take source elements from source(first) on. Output j of them takes
// element i of those by tap(i, j) where that lies in [0, K), and these are the i in [begin(j), end(j)).
template <int K, int kStride>
struct ForwardWindow {
  static constexpr int kernel = K;
  __host__ __device__ static constexpr int source(int output) {
    return advance(output) - K / 2;
  }
  __host__ __device__ static constexpr int advance(int outputs) {
    return outputs * kStride;
  }
  __host__ __device__ static constexpr int span(int outputs) { // source elements for so many outputs
    return (outputs - 1) * kStride + K;
  }
  __host__ __device__ static constexpr int tap(int i, int j) {
    return i - j * kStride;
  }
  __host__ __device__ static constexpr int begin(int j) {
    return j * kStride;
  }
  __host__ __device__ static constexpr int end(int j) {
    return begin(j) + K;
  }
};

// The gradient of the input: what was the input is the output here, and `first` is a multiple of the stride.
template <int K, int kStride>
struct GradientWindow {
  static constexpr int kernel = K;
  static constexpr int kHead = K / 2 / kStride; // source elements before source position first / stride
  __host__ __device__ static constexpr int source(int output) {
    return advance(output) - kHead;
  }
  __host__ __device__ static constexpr int advance(int outputs) {
    return outputs / kStride;
  }
  __host__ __device__ static constexpr int span(int outputs) {
    return end(outputs - 1);
  }
  __host__ __device__ static constexpr int tap(int i, int j) {
    return j + K / 2 + (kHead - i) * kStride;
  }
  __host__ __device__ static constexpr int begin(int j) {
    return (j - K / 2 + (kHead + 1) * kStride - 1) / kStride;
  }
  __host__ __device__ static constexpr int end(int j) {
    return (j + K / 2) / kStride + kHead + 1;
  }
};

// ---- plans ----

// x is [batch, height, width, channels], y [batch, out_height, out_width, channels]; kernel 3, 5 or 7, stride 1 or 2.
struct DepthwiseSize {
  int64_t batch;
  int channels, height, width, out_height, out_width, kernel, stride;
};

// How the blocks divide the output: y, or the gradient of x.
struct DepthwisePlan {
  int64_t batch;
  int channels, height, width; // of the output
  int source_height, source_width;
  int columns, rows; // outputs of a block in one step; columns in whole strips, rows even
  int band; // output rows of a block
  int chunks, tiles, bands; // blocks along the channels, the columns, the rows
  bool aligned; // whether every pixel starts on 16 bytes
  int shared_bytes;

  __host__ __device__ int64_t parts() const { // blocks for each chunk of channels
    return batch * bands * tiles;
  }
  __host__ __device__ int64_t blocks() const {
    return parts() * chunks;
  }
};

// Blocks wanted at least for each multiprocessor. More of them would read more halo.
constexpr int kDepthwiseBlocks = 5;

inline int divide_up(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

// `extra` bytes of shared memory come on top of ring and stage, which have at least `least`.
template <typename T, typename Window, int kChannels = kDepthwiseChannels>
DepthwisePlan depthwise_plan(
    const DepthwiseSize& s, bool gradient, size_t extra, size_t least, int blocks = kDepthwiseBlocks) {
  constexpr int strips = kDepthwiseThreads / (kChannels / kQuad);
  constexpr size_t budget = 48 * 1024;
  DepthwisePlan p = {};
  p.batch = s.batch;
  p.channels = s.channels;
  p.height = gradient ? s.height : s.out_height;
  p.width = gradient ? s.width : s.out_width;
  p.source_height = gradient ? s.out_height : s.height;
  p.source_width = gradient ? s.out_width : s.width;
  p.chunks = divide_up(p.channels, kChannels);
  const auto bytes = [&] {
    const size_t ring = size_t(Window::span(p.rows)) * Window::span(p.columns), stage = size_t(p.rows) * p.columns;
    return extra + std::max(least, (ring + stage) * kPixel<T, kChannels> * sizeof(T));
  };
  for (p.tiles = divide_up(p.width, 7 * kStrip);; ++p.tiles) {
    p.columns = divide_up(divide_up(p.width, p.tiles), kStrip) * kStrip;
    p.rows = std::min(strips / (p.columns / kStrip), p.height + 1) / 2 * 2;
    while (bytes() > budget && p.rows > 2) {
      p.rows = p.rows / 4 * 2;
    }
    if (bytes() <= budget) {
      break;
    }
  }
  p.tiles = divide_up(p.width, p.columns);
  const int64_t columns = p.batch * p.chunks * p.tiles;
  const int wanted = divide_up(int64_t(blocks) * multiprocessors(), columns);
  // More than `most` would read too much halo: only for the sake of multiprocessors that have nothing else to do.
  const int most = std::max(divide_up(p.height, 2 * Window::kernel), divide_up(multiprocessors(), columns));
  p.band = divide_up(divide_up(p.height, p.rows), std::min(wanted, most)) * p.rows;
  p.bands = divide_up(p.height, p.band);
  p.aligned = p.channels % Vec<T>::size == 0;
  p.shared_bytes = static_cast<int>(bytes());
  return p;
}

// Which part of the work a block has.
struct DepthwiseBlock {
  int64_t part, image;
  int channel, left, top, bottom; // first channel, first column, first row and the row after the last

  __device__ DepthwiseBlock(const DepthwisePlan& p, int64_t block, int channels = kDepthwiseChannels) {
    channel = static_cast<int>(block % p.chunks) * channels;
    part = block / p.chunks;
    left = static_cast<int>(part % p.tiles) * p.columns;
    top = static_cast<int>(part / p.tiles % p.bands) * p.band;
    bottom = min(top + p.band, p.height);
    image = part / p.tiles / p.bands;
  }
};

// body(K, stride) with the size's kernel and stride as constants.
template <typename Body>
auto with_window(const DepthwiseSize& s, Body body) {
  const auto with_stride = [&](auto k) {
    return s.stride == 1 ? body(k, std::integral_constant<int, 1>()) : body(k, std::integral_constant<int, 2>());
  };
  switch (s.kernel) {
    case 3:
      return with_stride(std::integral_constant<int, 3>());
    case 5:
      return with_stride(std::integral_constant<int, 5>());
    default:
      return with_stride(std::integral_constant<int, 7>());
  }
}

} // namespace supernet::cuda
