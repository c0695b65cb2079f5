// Device code of inverted_bottleneck, the inference form, for channels_last images: one launch, and the expanded
// channels never leave the multiprocessor.
//
// A block keeps its pixels of x, with the halo, in shared memory. Of every chunk of the expanded channels it computes
// `tile` from them, on tensor cores for half and bfloat16; the rest is separable_kernels.cuh. The halo is expanded by
// each block that needs it, what lies outside of the image by none.
#pragma once

#include "cuda/separable_kernels.cuh"

namespace supernet::cuda {

// What a block expands: the part of the image below its tile.
template <typename T, int K, int kStride>
struct ExpandBlock {
  using Fused = FusedBlock<T, K, kStride>;
  using Tile = WarpTile<T, Major::column>;
  static constexpr int chunk = Fused::chunk, size = Fused::size;

  const Fused& b;
  T* x; // [rows][columns][expand_row]
  float* scale; // [chunk], and below it the shifts
  int top, left, rows, columns; // of the image
  int row; // elements from pixel to pixel of x and of the weight

  __device__ ExpandBlock(const Fused& b, unsigned char* shared)
      : b(b),
        x(reinterpret_cast<T*>(shared + b.p.x_at)),
        scale(b.taps + (K * K + 1) * kTapRow<chunk>),
        top(max(0, Fused::Window::source(b.top))),
        left(max(0, Fused::Window::source(b.left))),
        rows(min(b.p.size.height, Fused::Window::source(b.top) + b.height) - top),
        columns(min(b.p.size.width, Fused::Window::source(b.left) + b.width) - left),
        row(expand_row<T>(b.p.inputs)) {}

  // x into shared memory, with 0 up to whole tiles of channels, and 0 where the tile lies outside of the image.
  __device__ void load_image(const T* from) const {
    const DepthwiseSize& s = b.p.size;
    const int vectors = row / size - 1;
    with_whole(b.p.x_aligned, [&](auto whole) {
      copy_vectors(
          rows * columns * vectors,
          [&](int i) {
            const int pixel = i / vectors, v = i % vectors * size;
            const int64_t at = (b.image * s.height + top + pixel / columns) * s.width + left + pixel % columns;
            return v < b.p.inputs
                ? load_words<decltype(whole)::value>(from + at * b.p.inputs, v, b.p.inputs)
                : Words{};
          },
          [&](int i, const Words& words) {
            shared_vec(x + i / vectors * row + i % vectors * size) = words.template as<T>();
          });
    });
#pragma unroll 1 // here as below: the registers belong to the sums
    for (int i = threadIdx.x; i < b.height * b.width * Fused::row / size; i += kFusedThreads) {
      shared_vec(b.tile + i * size) = Vec<T>{};
    }
  }

  // The chunk's rows of the weight [expanded][inputs], its scales and shifts; 0 beyond the last channel.
  __device__ void load_weight(const T* from, const float* scales, const float* shifts, int channel) const {
    const int vectors = row / size - 1, left_over = b.p.size.channels - channel;
#pragma unroll 1 // one after the other: no registers are left for more in flight
    for (int i = threadIdx.x; i < chunk * vectors; i += kFusedThreads) {
      const int c = i / vectors, v = i % vectors * size;
      const T* const source = from + int64_t(channel + min(c, left_over - 1)) * b.p.inputs;
      shared_vec(b.weight + c * row + v) = load_vec(source, v, c < left_over ? b.p.inputs : 0, b.p.expand_aligned);
    }
#pragma unroll 1
    for (int c = threadIdx.x; c < 2 * chunk; c += kFusedThreads) {
      const int at = c % chunk;
      scale[c] = at < left_over ? cuda::load((c < chunk ? scales : shifts) + channel + at) : 0.f;
    }
  }

  // tile = act(scale · x weightᵀ + shift) inside of the image.
  __device__ __forceinline__ void expand() const {
    const int pixels = rows * columns;
#pragma unroll 1
    for (int first = threadIdx.x / 32 * 16; first < pixels; first += kFusedWarps * 16) {
      typename Tile::C sums[chunk / 16];
#pragma unroll
      for (auto& sum : sums) {
        Tile::fill_zero(sum);
      }
#pragma unroll 1
      for (int k = 0; k < b.p.inputs; k += 16) {
        typename Tile::A a;
        Tile::load_a(a, x + first * row + k, row);
#pragma unroll
        for (int j = 0; j < chunk / 16; ++j) {
          typename Tile::B w;
          Tile::load_b(w, b.weight + j * 16 * row + k, row);
          Tile::mma(sums[j], a, w);
        }
      }
#pragma unroll
      for (int j = 0; j < chunk / 16; ++j) {
        for_rows<Tile>(sums[j], b.scratch, [&](int pixel, int column, const float* values) {
          pixel += first;
          if (pixel < pixels) {
            const int r = top - Fused::Window::source(b.top) + pixel / columns;
            const int c = left - Fused::Window::source(b.left) + pixel % columns;
            T* const to = b.tile + (r * b.width + c) * Fused::row + j * 16 + column;
            const float* const scales = scale + j * 16 + column;
#pragma unroll
            for (int v = 0; v < 8; v += size) {
              Vec<T> out;
#pragma unroll
              for (int i = v; i < v + size; ++i) {
                out.v[i - v] = static_cast<T>(activate(b.p.mid_act, values[i] * scales[i] + scales[chunk + i]));
              }
              shared_vec(to + v) = out;
            }
          }
        });
      }
    }
  }
};

template <typename T>
struct InvertedBottleneckPointers {
  const T *x, *expand_weight; // [batch, height, width, inputs], [expanded][inputs]
  const float *expand_scale, *expand_shift;
  const T* dw_weight; // [expanded][taps]
  const float *dw_scale, *dw_shift;
  const T* pw_weight; // [outputs][expanded]
  const float *pw_scale, *pw_shift;
  const T* residual; // x or null
  T* y; // [batch, out_height, out_width, outputs]
};

template <typename T, int K, int kStride>
__global__ void __launch_bounds__(kFusedThreads, 2)
    inverted_bottleneck_kernel(InvertedBottleneckPointers<T> in, FusedPlan p) {
  SUPERNET_DYNAMIC_SHARED(unsigned char, shared);
  const FusedBlock<T, K, kStride> b(p, shared);
  const ExpandBlock<T, K, kStride> e(b, shared);
  FusedSums<T> sums;
  e.load_image(in.x);
  for (int channel = 0; channel < p.size.channels; channel += b.chunk) {
    e.load_weight(in.expand_weight, in.expand_scale, in.expand_shift, channel);
    b.load_taps(in.dw_weight, in.dw_scale, in.dw_shift, channel);
    __syncthreads(); // x and the weight are there
    e.expand();
    __syncthreads(); // the tile is filled; the weight is used
    b.load_projection(in.pw_weight, channel);
    b.depthwise();
    __syncthreads(); // middle and the other weight are there
    sums.add(p, b.middle, b.weight);
    __syncthreads(); // they are used: middle is free for the scratch
  }
  b.store_outputs(sums, in.pw_scale, in.pw_shift, in.residual, in.y);
}

// s.channels is that of the expansion. Nothing if x is too wide for shared memory.
template <typename T>
std::optional<FusedPlan> inverted_bottleneck_plan(const DepthwiseSize& s, int inputs, int outputs) {
  return with_window(s, [&](auto k, auto stride) { return fused_plan<T, k(), stride()>(s, outputs, inputs, true); });
}

template <typename T>
void inverted_bottleneck(FusedPlan p, const InvertedBottleneckPointers<T>& in, Activation act, Stream stream) {
  p.mid_act = act;
  p.out_act = Activation::none;
  p.x_aligned = p.inputs % Vec<T>::size == 0 && is_aligned(in.x);
  p.expand_aligned = p.inputs % Vec<T>::size == 0 && is_aligned(in.expand_weight);
  p.pw_aligned = p.size.channels % Vec<T>::size == 0 && is_aligned(in.pw_weight);
  p.y_aligned = p.outputs % Vec<T>::size == 0 && is_aligned(in.y) && is_aligned(in.residual);
  with_window(p.size, [&](auto k, auto stride) {
    launch(
        &inverted_bottleneck_kernel<T, k(), stride()>, static_cast<unsigned>(p.blocks()), kFusedThreads,
        p.shared_bytes, stream, in, p);
  });
}

} // namespace supernet::cuda
