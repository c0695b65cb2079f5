// Device code of dw_separable, the inference form, for channels_last images: one launch.
//
// A block computes up to 128 outputs of 64 pixels. It takes the channels in chunks of 64 bytes: a tile of x with its
// halo into shared memory; depthwise convolution, scale, shift and activation of it, into shared memory again; and this
// times the chunk's part of the pointwise weight, added up in registers, on tensor cores for half and bfloat16. The
// last step scales, shifts, activates and stores. Nothing between x and y goes through global memory.
#pragma once

#include "activation_kernels.cuh"
#include "cuda_common.cuh"
#include "depthwise_kernels.cuh"

namespace supernet::cuda {

constexpr int kFusedThreads = 128;
constexpr int kFusedPixels = 64; // of a block
constexpr int kFusedOutputs = 128; // of a block
constexpr int kFusedGroup = 32; // outputs that the last step stores at once
constexpr int kFusedGroupRow = kFusedGroup + 4; // floats from pixel to pixel there: other banks for each

template <typename T>
constexpr int kFusedChannels = 64 / sizeof(T); // of a chunk
template <typename T>
constexpr int kFusedRow = 80 / sizeof(T); // elements from row to row of a chunk in shared memory: other banks for each

// The block's sums, [64 pixels][128 outputs], by tiles of 16 outputs; a warp owns 16 pixels. Tiles from `outputs` on
// are left out.
template <typename T>
struct PointwiseSums {
  static constexpr int kTiles = kFusedOutputs / 16;
  using Tile = WarpTile<T, Major::column>;
  typename Tile::C sums[kTiles];

  __device__ PointwiseSums() {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      Tile::fill_zero(sums[j]);
    }
  }

  // += middle [pixels][chunk] · weight [outputs][chunk] transposed
  __device__ void add(const T* middle, const T* weight, int outputs) {
#pragma unroll
    for (int k = 0; k < kFusedChannels<T>; k += 16) {
      typename Tile::A a;
      Tile::load_a(a, middle + threadIdx.x / 32 * 16 * kFusedRow<T> + k, kFusedRow<T>);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j * 16 < outputs) {
          typename Tile::B b;
          Tile::load_b(b, weight + j * 16 * kFusedRow<T> + k, kFusedRow<T>);
          Tile::mma(sums[j], a, b);
        }
      }
    }
  }

  __device__ void store_tile(int j, float* group) const {
    Tile::store_accumulators(
        group + threadIdx.x / 32 * 16 * kFusedGroupRow + j % (kFusedGroup / 16) * 16, kFusedGroupRow, sums[j]);
  }
};

// Without tensor cores a thread owns 8 pixels and one output of each tile.
template <>
struct PointwiseSums<float> {
  static constexpr int kTiles = kFusedOutputs / 16;
  static constexpr int kRow = kFusedRow<float>;
  static constexpr int kPixels = 8;
  float sums[kTiles][kPixels] = {};

  __device__ static int first_pixel() {
    return threadIdx.x / 16 * kPixels;
  }

  __device__ void add(const float* middle, const float* weight, int outputs) {
#pragma unroll 1
    for (int k = 0; k < kFusedChannels<float>; k += kQuad) {
      Quad a[kPixels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        a[i] = load_quad(middle + (first_pixel() + i) * kRow + k);
      }
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j * 16 < outputs) {
          const Quad b = load_quad(weight + (j * 16 + threadIdx.x % 16) * kRow + k);
#pragma unroll
          for (int i = 0; i < kPixels; ++i) {
#pragma unroll
            for (int c = 0; c < kQuad; ++c) {
              sums[j][i] += a[i].v[c] * b.v[c];
            }
          }
        }
      }
    }
  }

  __device__ void store_tile(int j, float* group) const {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      group[(first_pixel() + i) * kFusedGroupRow + j % (kFusedGroup / 16) * 16 + threadIdx.x % 16] = sums[j][i];
    }
  }
};

struct FusedPlan {
  DepthwiseSize size;
  int outputs; // of the pointwise part
  int tile_height, tile_width; // together 64 pixels
  int down, across, chunks; // tiles of an image, blocks along the outputs
  Activation mid_act, out_act;
  bool x_aligned, pw_aligned, y_aligned; // what may be accessed 16 bytes at a time

  int64_t blocks() const {
    return size.batch * down * across * chunks;
  }
};

// The scaled taps of a chunk, [K * K][chunk], and below them the shifts; 0 beyond the last channel.
template <int K, typename T>
__device__ void load_scaled_taps(
    const T* weight, const float* scale, const float* shift, int channels, int channel, float* taps) {
  constexpr int chunk = kFusedChannels<T>;
  for (int i = threadIdx.x; i < chunk * (K * K + 1); i += kFusedThreads) {
    const int c = i / (K * K + 1), tap = i % (K * K + 1);
    float value = 0;
    if (channel + c < channels) {
      value = tap == K * K
          ? load(shift + channel + c)
          : load(scale + channel + c) * static_cast<float>(load(weight + int64_t(channel + c) * K * K + tap));
    }
    taps[tap * chunk + c] = value;
  }
}

template <typename T, int K, int kStride>
__global__ void __launch_bounds__(kFusedThreads, 3) dw_separable_kernel(
    const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift, const T* pw_weight,
    const float* pw_scale, const float* pw_shift, T* y, FusedPlan p) {
  using Window = ForwardWindow<K, kStride>;
  constexpr int chunk = kFusedChannels<T>, row = kFusedRow<T>, size = Vec<T>::size, vectors = chunk / size;
  constexpr int quads = chunk / kQuad, strip = kFusedPixels * quads / kFusedThreads; // a thread's depthwise outputs
  SUPERNET_DYNAMIC_SHARED(T, middle); // [pixels][row]
  T* const weight = middle + kFusedPixels * row; // [outputs][row]
  float* const taps = reinterpret_cast<float*>(weight + kFusedOutputs * row);
  T* const tile = reinterpret_cast<T*>(taps + (K * K + 1) * chunk); // [height][width][row], with the halo
  float* const group = reinterpret_cast<float*>(middle); // at the end

  const int first_output = static_cast<int>(blockIdx.x % p.chunks) * kFusedOutputs;
  const int outputs = min(kFusedOutputs, p.outputs - first_output);
  const int64_t spot = blockIdx.x / p.chunks;
  const int left = static_cast<int>(spot % p.across) * p.tile_width;
  const int top = static_cast<int>(spot / p.across % p.down) * p.tile_height;
  const int64_t image = spot / p.across / p.down;
  const DepthwiseSize& s = p.size;
  const int height = Window::span(p.tile_height), width = Window::span(p.tile_width);
  x += image * s.height * s.width * s.channels;
  y += image * s.out_height * s.out_width * p.outputs;

  const int quad = threadIdx.x % quads * kQuad, strips = p.tile_width / strip;
  const int pixel_row = threadIdx.x / quads / strips, pixel_column = threadIdx.x / quads % strips * strip;
  PointwiseSums<T> sums;
  for (int channel = 0; channel < s.channels; channel += chunk) {
    for (int i = threadIdx.x; i < height * width * vectors; i += kFusedThreads) {
      const int pixel = i / vectors, v = i % vectors * size;
      const int r = Window::source(top) + pixel / width, c = Window::source(left) + pixel % width;
      const bool inside = 0 <= r && r < s.height && 0 <= c && c < s.width;
      const T* const from = x + (int64_t(inside ? r : 0) * s.width + (inside ? c : 0)) * s.channels;
      shared_vec(tile + pixel * row + v) = load_vec(from, channel + v, inside ? s.channels : 0, p.x_aligned);
    }
    load_scaled_taps<K>(dw_weight, dw_scale, dw_shift, s.channels, channel, taps);
    __syncthreads(); // the tile is filled; the product before is done with middle and weight
    for (int i = threadIdx.x; i < kFusedOutputs * vectors; i += kFusedThreads) {
      const int o = i / vectors, v = i % vectors * size;
      const int64_t from = int64_t(first_output + min(o, outputs - 1)) * s.channels;
      shared_vec(weight + o * row + v) =
          load_vec(pw_weight + from, channel + v, o < outputs ? s.channels : 0, p.pw_aligned);
    }
    float values[strip][kQuad];
    const Quad shift = load_quad(taps + K * K * chunk + quad);
#pragma unroll
    for (int j = 0; j < strip; ++j) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        values[j][c] = shift.v[c];
      }
    }
    const T* const source = tile + (Window::advance(pixel_row) * width + Window::advance(pixel_column)) * row + quad;
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      add_row<Window, row, chunk>(values, source + k * width * row, taps + k * K * chunk + quad);
    }
#pragma unroll
    for (int j = 0; j < strip; ++j) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        values[j][c] = activate(p.mid_act, values[j][c]);
      }
      store_quad(middle + (pixel_row * p.tile_width + pixel_column + j) * row + quad, values[j]);
    }
    __syncthreads(); // middle and weight are there; the tile is free
    sums.add(middle, weight, outputs);
  }

#pragma unroll
  for (int g = 0; g < kFusedOutputs / kFusedGroup; ++g) {
    if (g * kFusedGroup < outputs) { // the same for the whole block
      __syncthreads(); // what was here is used
#pragma unroll
      for (int j = 0; j < kFusedGroup / 16; ++j) {
        sums.store_tile(g * kFusedGroup / 16 + j, group);
      }
      __syncthreads();
      for (int i = threadIdx.x; i < kFusedPixels * kFusedGroup / size; i += kFusedThreads) {
        const int pixel = i / (kFusedGroup / size), v = i % (kFusedGroup / size) * size;
        const int r = top + pixel / p.tile_width, c = left + pixel % p.tile_width;
        const int output = first_output + g * kFusedGroup + v;
        if (r < s.out_height && c < s.out_width && output < p.outputs) {
          Vec<T> out;
#pragma unroll
          for (int j = 0; j < size; ++j) {
            const int o = min(output + j, p.outputs - 1);
            const float z = group[pixel * kFusedGroupRow + v + j] * load(pw_scale + o) + load(pw_shift + o);
            out.v[j] = static_cast<T>(activate(p.out_act, z));
          }
          store_vec(y + (int64_t(r) * s.out_width + c) * p.outputs, output, p.outputs, p.y_aligned, out);
        }
      }
    }
  }
}

// ---- launches ----

template <typename T, int K, int kStride>
size_t fused_shared_bytes(int tile_height, int tile_width) {
  using Window = ForwardWindow<K, kStride>;
  const size_t rows =
      kFusedPixels + kFusedOutputs + size_t(Window::span(tile_height)) * Window::span(tile_width);
  return rows * kFusedRow<T> * sizeof(T) + (K * K + 1) * kFusedChannels<T> * sizeof(float);
}

// The tiles of 64 pixels that load least, with what they reach over the borders and their halo. (Longer ones would need
// more than the 64 KiB of shared memory that any device has, for kernel 7 and stride 2.)
template <int K, int kStride>
void choose_tile(FusedPlan& p) {
  using Window = ForwardWindow<K, kStride>;
  int64_t least = -1;
  for (const int width : {8, 16, 4}) {
    const int height = kFusedPixels / width;
    const int down = divide_up(p.size.out_height, height), across = divide_up(p.size.out_width, width);
    const int64_t loads = int64_t(down) * across * Window::span(height) * Window::span(width);
    if (least < 0 || loads < least) {
      least = loads;
      p.tile_height = height;
      p.tile_width = width;
      p.down = down;
      p.across = across;
    }
  }
}

// y [batch, out_height, out_width, outputs] from x; dw_weight [channels][taps], pw_weight [outputs][channels].
template <typename T>
void dw_separable(
    const DepthwiseSize& s, int outputs, const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift,
    const T* pw_weight, const float* pw_scale, const float* pw_shift, Activation mid_act, Activation out_act, T* y,
    Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    FusedPlan p = {};
    p.size = s;
    p.outputs = outputs;
    p.chunks = divide_up(outputs, kFusedOutputs);
    p.mid_act = mid_act;
    p.out_act = out_act;
    p.x_aligned = s.channels % Vec<T>::size == 0 && is_aligned(x);
    p.pw_aligned = s.channels % Vec<T>::size == 0 && is_aligned(pw_weight);
    p.y_aligned = outputs % Vec<T>::size == 0 && is_aligned(y);
    choose_tile<k(), stride()>(p);
    launch(
        &dw_separable_kernel<T, k(), stride()>, static_cast<unsigned>(p.blocks()), kFusedThreads,
        fused_shared_bytes<T, k(), stride()>(p.tile_height, p.tile_width), stream, x, dw_weight, dw_scale, dw_shift,
        pw_weight, pw_scale, pw_shift, y, p);
  });
}

} // namespace supernet::cuda
