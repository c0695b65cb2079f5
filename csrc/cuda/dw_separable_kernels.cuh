// Device code of dw_separable, the inference form, for channels_last images: one launch, and nothing between x and y
// goes through global memory.
#pragma once

#include "cuda/separable_kernels.cuh"

namespace supernet::cuda {

template <typename T, int K, int kStride, typename P>
__global__ void __launch_bounds__(kFusedThreads, 2) dw_separable_kernel(
    const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift, const T* pw_weight,
    const float* pw_scale, const float* pw_shift, Activation out_act, T* y, FusedPlan p) {
  SUPERNET_DYNAMIC_SHARED(unsigned char, shared);
  using Window = ForwardWindow<K, kStride>;
  const FusedBlock<T, K, kStride, P> b(p, shared);
  const DepthwiseSize& s = p.size;
  constexpr int vectors = b.chunk / b.size;
  const T* const image = x + b.image * s.height * s.width * s.channels;
  FusedSums<T, P> sums;
  b.for_chunks(
      sums,
      [&](int channel, auto whole) {
#pragma unroll 1 // the registers belong to the sums
        for (int i = threadIdx.x; i < b.height * b.width * vectors; i += kFusedThreads) {
          const int pixel = i / vectors, v = i % vectors * b.size;
          const int r = pixel / b.width, c = pixel % b.width, y = Window::source(b.top) + r;
          const int x = Window::source(b.left) + c;
          const bool inside = 0 <= y && y < s.height && 0 <= x && x < s.width;
          const T* const from = image + (int64_t(y) * s.width + x) * s.channels;
          fetch_vec<decltype(whole)::value>(
              b.tile(channel) + b.in_tile(r, c) + v, from, channel + v, inside ? s.channels : 0);
        }
        b.template fetch_weights<decltype(whole)::value>(dw_weight, dw_scale, dw_shift, pw_weight, channel);
      },
      [](int) {}, [&](int channel) { return b.tile(channel); });
  b.store_outputs(sums, pw_scale, pw_shift, out_act, nullptr, y);
}

// y [batch, out_height, out_width, outputs] from x; dw_weight [channels][taps], pw_weight [outputs][channels]. With
// `tf32` products of floats may be as precise as tensor cores have them.
template <typename T>
void dw_separable(
    const DepthwiseSize& s, int outputs, const T* x, const T* dw_weight, const float* dw_scale, const float* dw_shift,
    const T* pw_weight, const float* pw_scale, const float* pw_shift, Activation mid_act, Activation out_act, bool tf32,
    T* y, Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    auto p = fused_plan<T, k(), stride()>(s, outputs, s.channels, false).value(); // the smallest tile always fits
    p.mid_act = mid_act;
    p.aligned = s.channels % Vec<T>::size == 0 && are_aligned({x, dw_weight, dw_scale, dw_shift, pw_weight});
    p.y_aligned = outputs % kQuad == 0 && is_aligned(y);
    with_products<T>(tf32, [&](auto product) {
      launch(
          &dw_separable_kernel<T, k(), stride(), decltype(product)>, static_cast<unsigned>(p.blocks()), kFusedThreads,
          p.shared_bytes, stream, x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, out_act, y, p);
    });
  });
}

} // namespace supernet::cuda
