// Device code of inverted_bottleneck, the inference form, for channels_last images: one launch, and the expanded
// channels never leave the multiprocessor.
//
// A block keeps its pixels of x, with the halo, in shared memory. Of every chunk of the expanded channels it computes
// the tile from them, on tensor cores for half and bfloat16; the rest is separable_kernels.cuh. The halo is expanded by
// each block that needs it, what lies outside of the image by none.
#pragma once

#include "cuda/separable_kernels.cuh"

namespace supernet::cuda {

// What a block expands: the part of the image below its tile.
template <typename T, int K, int kStride, typename P>
struct ExpandBlock {
  using Fused = FusedBlock<T, K, kStride, P>;
  using Tile = WarpTile<T, P>;
  static constexpr int chunk = Fused::chunk, size = Fused::size;

  const Fused& b;
  T* weight; // [chunk, by their places][expand_row]
  T* x; // [rows][columns][expand_row]
  float* scale; // [chunk], and below it the shifts
  int top, left, rows, columns; // of the image
  int row; // elements from pixel to pixel of x and of the weight

  __device__ ExpandBlock(const Fused& b, unsigned char* shared)
      : b(b),
        weight(reinterpret_cast<T*>(shared + b.p.expand_at)),
        x(reinterpret_cast<T*>(shared + b.p.x_at)),
        scale(b.vectors + 2 * chunk),
        top(max(0, Fused::Window::source(b.top))),
        left(max(0, Fused::Window::source(b.left))),
        rows(min(b.p.size.height, Fused::Window::source(b.top) + b.height) - top),
        columns(min(b.p.size.width, Fused::Window::source(b.left) + b.width) - left),
        row(expand_row<T>(b.p.inputs)) {}

  // x into shared memory, with 0 up to whole tiles of channels, and 0 where the tile lies outside of the image.
  __device__ void fetch_image(const T* from) const {
    const DepthwiseSize& s = b.p.size;
    const int vectors = row / size - 1;
    with_whole(b.p.aligned, [&](auto whole) {
#pragma unroll 1 // here as below: the registers belong to the sums
      for (int i = threadIdx.x; i < rows * columns * vectors; i += kFusedThreads) {
        const int pixel = i / vectors, v = i % vectors * size;
        const int64_t at = (b.image * s.height + top + pixel / columns) * s.width + left + pixel % columns;
        fetch_vec<decltype(whole)::value>(x + pixel * row + v, from + at * b.p.inputs, v, b.p.inputs);
      }
    });
#pragma unroll 1
    for (int i = threadIdx.x; i < Fused::Tile::elements(b.p) / size; i += kFusedThreads) {
      store_shared(b.tiles + i * size, Vec<T>{});
    }
  }

  // The chunk's rows of the weight [expanded][inputs], its scales and shifts; 0 beyond the last channel.
  template <bool kWhole>
  __device__ void fetch_weight(const T* from, const float* scales, const float* shifts, int channel) const {
    const int vectors = row / size - 1, left_over = b.p.size.channels - channel;
#pragma unroll 1
    for (int i = not_ahead(threadIdx.x); i < chunk * vectors; i += kFusedThreads) {
      const int c = i / vectors, v = i % vectors * size;
      const T* const of_channel = from + int64_t(channel + c) * b.p.inputs;
      fetch_vec<kWhole>(weight + Tile::place(c) * row + v, of_channel, v, c < left_over ? b.p.inputs : 0);
    }
    b.template fetch_floats<kWhole>(scale, scales, shifts, channel);
  }

  // tile = act(scale · x weightᵀ + shift) inside of the image.
  __device__ __forceinline__ void expand() const {
    const int pixels = rows * columns;
#pragma unroll 1
    for (int first = not_ahead(threadIdx.x) / 32 * 16; first < pixels; first += kFusedWarps * 16) {
      typename Tile::C sums[chunk / 16] = {};
#pragma unroll 1
      for (int k = 0; k < b.p.inputs; k += 16) {
        typename Tile::A a;
        Tile::load_a(a, x + first * row + k, row);
#pragma unroll
        for (int j = 0; j < chunk / 16; ++j) {
          typename Tile::B w;
          Tile::load_b(w, weight + j * 16 * row + k, row);
          Tile::mma(sums[j], a, w);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int pixel = first + Tile::first_row() + 8 * i;
        if (pixel < pixels) {
          const int r = top - Fused::Window::source(b.top) + pixel / columns;
          const int c = left - Fused::Window::source(b.left) + pixel % columns;
#pragma unroll
          for (int j = 0; j < chunk / 16; ++j) {
            const int at = j * 16 + Tile::first_column();
            const Quad scales = load_quad(scale + at), shifts = load_quad(scale + chunk + at);
            float out[kQuad];
#pragma unroll
            for (int q = 0; q < kQuad; ++q) {
              out[q] = sums[j].v[i][q] * scales.v[q] + shifts.v[q];
            }
            activate_all(b.p.mid_act, out);
            store_quad(b.tiles + b.in_tile(r, c) + at, out);
          }
        }
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

template <typename T, int K, int kStride, typename P>
__global__ void __launch_bounds__(kFusedThreads, 2)
    inverted_bottleneck_kernel(InvertedBottleneckPointers<T> in, FusedPlan p) {
  SUPERNET_DYNAMIC_SHARED(unsigned char, shared);
  const FusedBlock<T, K, kStride, P> b(p, shared);
  const ExpandBlock<T, K, kStride, P> e(b, shared);
  FusedSums<T, P> sums;
  e.fetch_image(in.x);
  b.for_chunks(
      sums,
      [&](int channel, auto whole) {
        e.template fetch_weight<decltype(whole)::value>(in.expand_weight, in.expand_scale, in.expand_shift, channel);
        b.template fetch_weights<decltype(whole)::value>(in.dw_weight, in.dw_scale, in.dw_shift, in.pw_weight, channel);
      },
      [&](int) { e.expand(); }, [&](int) { return b.tiles; });
  b.store_outputs(sums, in.pw_scale, in.pw_shift, Activation::none, in.residual, in.y);
}

// s.channels is that of the expansion. Nothing if x is too wide for shared memory.
template <typename T>
std::optional<FusedPlan> inverted_bottleneck_plan(const DepthwiseSize& s, int inputs, int outputs) {
  return with_window(s, [&](auto k, auto stride) { return fused_plan<T, k(), stride()>(s, outputs, inputs, true); });
}

// With `tf32` products of floats may be as precise as tensor cores have them.
template <typename T>
void inverted_bottleneck(
    FusedPlan p, const InvertedBottleneckPointers<T>& in, Activation act, bool tf32, Stream stream) {
  p.mid_act = act;
  p.aligned = p.inputs % Vec<T>::size == 0 && p.size.channels % Vec<T>::size == 0 &&
      are_aligned(
          {in.x, in.expand_weight, in.expand_scale, in.expand_shift, in.dw_weight, in.dw_scale, in.dw_shift,
           in.pw_weight});
  p.y_aligned = p.outputs % kQuad == 0 && are_aligned({in.y, in.residual});
  with_window(p.size, [&](auto k, auto stride) {
    with_products<T>(tf32, [&](auto product) {
      launch(
          &inverted_bottleneck_kernel<T, k(), stride(), decltype(product)>, static_cast<unsigned>(p.blocks()),
          kFusedThreads, p.shared_bytes, stream, in, p);
    });
  });
}

} // namespace supernet::cuda
