// Device code of dw_separable, the inference form, for channels_last images: one launch, and nothing between x and y
// goes through global memory.
#pragma once

#include "cuda/separable_kernels.cuh"

namespace supernet::cuda {

template <typename T, int K, int kStride>
__global__ void __launch_bounds__(kFusedThreads, 2) dw_separable_kernel(
    const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift, const T* pw_weight,
    const float* pw_scale, const float* pw_shift, T* y, FusedPlan p) {
  SUPERNET_DYNAMIC_SHARED(unsigned char, shared);
  using Window = ForwardWindow<K, kStride>;
  const FusedBlock<T, K, kStride> b(p, shared);
  const DepthwiseSize& s = p.size;
  constexpr int vectors = b.chunk / b.size;
  x += b.image * s.height * s.width * s.channels;
  FusedSums<T> sums;
  for (int channel = 0; channel < s.channels; channel += b.chunk) {
    with_whole(p.x_aligned, [&](auto whole) {
      copy_vectors(
          b.height * b.width * vectors,
          [&](int i) {
            const int pixel = i / vectors, at = channel + i % vectors * b.size;
            const int r = Window::source(b.top) + pixel / b.width, c = Window::source(b.left) + pixel % b.width;
            const bool inside = 0 <= r && r < s.height && 0 <= c && c < s.width && at < s.channels;
            const T* const from = x + (int64_t(r) * s.width + c) * s.channels;
            return inside ? load_words<decltype(whole)::value>(from, at, s.channels) : Words{};
          },
          [&](int i, const Words& words) {
            shared_vec(b.tile + i / vectors * b.row + i % vectors * b.size) = words.template as<T>();
          });
    });
    b.load_taps(dw_weight, dw_scale, dw_shift, channel);
    __syncthreads(); // the tile is filled; the product before is done with middle and weight
    b.load_projection(pw_weight, channel);
    b.depthwise();
    __syncthreads(); // middle and weight are there; the tile is free
    sums.add(p, b.middle, b.weight);
  }
  __syncthreads(); // middle is free for the scratch
  b.store_outputs(sums, pw_scale, pw_shift, nullptr, y);
}

// y [batch, out_height, out_width, outputs] from x; dw_weight [channels][taps], pw_weight [outputs][channels].
template <typename T>
void dw_separable(
    const DepthwiseSize& s, int outputs, const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift,
    const T* pw_weight, const float* pw_scale, const float* pw_shift, Activation mid_act, Activation out_act, T* y,
    Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    auto p = fused_plan<T, k(), stride()>(s, outputs, s.channels, false).value(); // the smallest tile always fits
    p.mid_act = mid_act;
    p.out_act = out_act;
    p.x_aligned = s.channels % Vec<T>::size == 0 && is_aligned(x);
    p.pw_aligned = s.channels % Vec<T>::size == 0 && is_aligned(pw_weight);
    p.y_aligned = outputs % Vec<T>::size == 0 && is_aligned(y);
    launch(
        &dw_separable_kernel<T, k(), stride()>, static_cast<unsigned>(p.blocks()), kFusedThreads, p.shared_bytes,
        stream, x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, y, p);
  });
}

} // namespace supernet::cuda
