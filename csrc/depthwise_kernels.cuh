// Device code of depthwise_conv2d, for channels_last images: forward and gradient of the input.
//
// A block owns 32 channels of a band of the output, some columns wide, and walks down it. The source rows that its
// next few output rows need lie in a ring in shared memory, so that a source element is read once, but for the
// halo at the band's borders. A thread computes 4 neighbouring outputs of 4 channels from them.
#pragma once

#include "cuda_reduce.cuh"
#include "depthwise_rows.cuh"

namespace supernet::cuda {

// ---- kernels ----

// (The second launch bound, blocks that a multiprocessor should hold, gives ptxas the registers to do without spills.)

// output = the convolution of `source` by Window, channel by channel. With kMoments also the statistics of what a block
// computes, moments[part][count, mean, squares][channel].
template <typename T, typename Window, bool kMoments>
__global__ void __launch_bounds__(kDepthwiseThreads, 5) depthwise_kernel(
    const T* source, const T* weight, T* output, float* moments, DepthwisePlan p, bool weight_aligned) {
  constexpr int K = Window::kernel;
  SUPERNET_DYNAMIC_SHARED(float, taps);
  int* const any = reinterpret_cast<int*>(taps + K * K * kDepthwiseChannels);
  T* const ring = reinterpret_cast<T*>(any + 4); // on 16 bytes
  const int slots = Window::span(p.rows), width = Window::span(p.columns);
  T* const stage = ring + slots * width * kPixel<T>;
  const DepthwiseBlock b(p, blockIdx.x);
  source += b.image * p.source_height * p.source_width * p.channels;
  output += b.image * p.height * p.width * p.channels;
  const int quad = threadIdx.x % kQuads * kQuad, strips = p.columns / kStrip;
  const int row = threadIdx.x / kQuads / strips, strip = threadIdx.x / kQuads % strips;

  if (threadIdx.x == 0) {
    *any = 0;
  }
  __syncthreads();
  load_taps<K>(weight, p.channels, b.channel, weight_aligned, taps, any);
  __syncthreads();
  const bool on = *any != 0; // else the outputs are 0, and the source need not be read
  const auto load_source = [&](int first, int rows, int slot) {
    if (on) {
      load_rows(
          source, p.source_height, p.source_width, p.channels, p.aligned, b.channel, first, rows,
          Window::source(b.left), width, ring, slot, slots);
    }
  };
  ShiftedSums<float> statistics[kQuad];
  int count = 0;
  int head = 0; // where the ring starts
  load_source(Window::source(b.top), Window::span(min(p.rows, b.bottom - b.top)), 0);
  for (int y = b.top; y < b.bottom; y += p.rows) {
    const int rows = min(p.rows, b.bottom - y), next = min(p.rows, b.bottom - y - p.rows);
    __syncthreads(); // the ring is filled, and the stage is empty
    if (row < rows) {
      float sums[kStrip][kQuad] = {};
      if (on) {
        for (int i = Window::begin(row); i < Window::end(row); ++i) {
          const int slot = head + i < slots ? head + i : head + i - slots;
          add_row<Window, kPixel<T>, kDepthwiseChannels>(
              sums, ring + (slot * width + Window::advance(strip * kStrip)) * kPixel<T> + quad,
              taps + Window::tap(i, row) * K * kDepthwiseChannels + quad);
        }
      }
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        store_quad(stage + (row * p.columns + strip * kStrip + j) * kPixel<T> + quad, sums[j]);
        if (kMoments && b.left + strip * kStrip + j < p.width) {
#pragma unroll
          for (int c = 0; c < kQuad; ++c) {
            statistics[c].add(sums[j][c], count == 0);
          }
          ++count;
        }
      }
    }
    __syncthreads();
    for_vectors<T>(rows, min(p.columns, p.width - b.left), [&](int r, int column, int v) {
      store_vec(
          output + (int64_t(y + r) * p.width + b.left + column) * p.channels, b.channel + v, p.channels, p.aligned,
          shared_vec(stage + (r * p.columns + column) * kPixel<T> + v));
    });
    if (next > 0) {
      const int kept = slots - Window::advance(p.rows);
      load_source(Window::source(y) + slots, Window::span(next) - kept, head);
      head += Window::advance(p.rows);
      head = head < slots ? head : head - slots;
    }
  }

  if (kMoments) {
    __syncthreads();
    auto* const all = reinterpret_cast<Moments<float>*>(ring); // [strips][channels]
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      all[threadIdx.x / kQuads * kDepthwiseChannels + quad + c] = statistics[c].moments(static_cast<float>(count));
    }
    __syncthreads();
    const int channel = b.channel + threadIdx.x;
    if (threadIdx.x < kDepthwiseChannels && channel < p.channels) {
      auto sum = all[threadIdx.x];
      for (int s = 1; s < kStrips; ++s) {
        sum = merged(sum, all[s * kDepthwiseChannels + threadIdx.x]);
      }
      float* const to = moments + b.part * 3 * p.channels + channel;
      store(to, sum.count);
      store(to + p.channels, sum.mean);
      store(to + 2 * p.channels, sum.squares);
    }
  }
}

// ---- launches ----

template <int K>
constexpr size_t kTapBytes = (K * K * kDepthwiseChannels + 4) * sizeof(float); // and whether one is not 0

template <typename T, int K, int kStride>
DepthwisePlan depthwise_forward_plan(const DepthwiseSize& s) {
  return depthwise_plan<T, ForwardWindow<K, kStride>>(
      s, false, kTapBytes<K>, kStrips * kDepthwiseChannels * sizeof(Moments<float>));
}

template <typename T, int K, int kStride>
DepthwisePlan depthwise_gradient_plan(const DepthwiseSize& s) {
  return depthwise_plan<T, GradientWindow<K, kStride>>(s, true, kTapBytes<K>, 0);
}

// Parts of the statistics that depthwise_forward can take.
template <typename T>
int64_t depthwise_moment_parts(const DepthwiseSize& s) {
  return with_window(s, [&](auto k, auto stride) { return depthwise_forward_plan<T, k(), stride()>(s).parts(); });
}

// y = x * weight. `moments`, if not null, gets the statistics of y in parts, [parts][count, mean, squares][channels].
template <typename T>
void depthwise_forward(
    const DepthwiseSize& s, const T* x, const T* weight, T* y, float* moments, Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    using Window = ForwardWindow<k(), stride()>;
    auto plan = depthwise_forward_plan<T, k(), stride()>(s);
    plan.aligned = plan.aligned && is_aligned(x) && is_aligned(y);
    launch(
        moments ? &depthwise_kernel<T, Window, true> : &depthwise_kernel<T, Window, false>,
        static_cast<unsigned>(plan.blocks()), kDepthwiseThreads, plan.shared_bytes, stream, x, weight, y, moments,
        plan, is_aligned(weight));
  });
}

template <typename T>
void depthwise_input_gradient(
    const DepthwiseSize& s, const T* grad, const T* weight, T* grad_x, Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    auto plan = depthwise_gradient_plan<T, k(), stride()>(s);
    plan.aligned = plan.aligned && is_aligned(grad) && is_aligned(grad_x);
    launch(
        &depthwise_kernel<T, GradientWindow<k(), stride()>, false>, static_cast<unsigned>(plan.blocks()),
        kDepthwiseThreads, plan.shared_bytes, stream, grad, weight, grad_x, nullptr, plan, is_aligned(weight));
  });
}

} // namespace supernet::cuda
