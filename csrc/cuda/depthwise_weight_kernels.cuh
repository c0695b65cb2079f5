// Device code of depthwise_conv2d's gradient of the weight, for channels_last images. Blocks walk down bands of the
// output as in depthwise_kernels.cuh, with a ring of the source's rows and a stage of the gradient's.
#pragma once

#include "cuda/depthwise_rows.cuh"
#include "cuda/reduce.cuh"

namespace supernet::cuda {

// The weight's gradient takes fewer channels to a block: each block leaves a partial sum of their taps behind, and
// with fewer channels fewer such sums keep the device busy.
constexpr int kWeightChannels = 16;
constexpr int kWeightQuads = kWeightChannels / kQuad;
constexpr int kWeightStrips = kDepthwiseThreads / kWeightQuads;
constexpr int kWeightBlocks = 3; // wanted at least, as kDepthwiseBlocks; and one rather than fewer partial sums

// partial[block][channel][tap] = Σ grad · x over the parts of `per_block` neighbouring blocks of the plan. A thread
// sums one row of taps for 4 channels; groups of threads share the pixels. With kNorm x is read through `norm`.
template <typename T, int K, int kStride, bool kNorm>
__global__ void __launch_bounds__(kDepthwiseThreads, 4) depthwise_weight_kernel(
    const T* x, NormAct<float> norm, const T* grad, float* partial, DepthwisePlan p, int64_t per_block) {
  using Window = ForwardWindow<K, kStride>;
  constexpr int groups = kWeightStrips / K, pixel = kPixel<T, kWeightChannels>;
  SUPERNET_DYNAMIC_SHARED(float, shared);
  const SharedNorms<kWeightChannels> norms = {shared};
  T* const ring = reinterpret_cast<T*>(shared + norms.count);
  const int slots = Window::span(p.rows), width = Window::span(p.columns), strips = p.columns / kStrip;
  T* const stage = ring + slots * width * pixel; // rows of the gradient
  const int quad = threadIdx.x % kWeightQuads * kQuad;
  const int tap = threadIdx.x / kWeightQuads % K, group = threadIdx.x / kWeightQuads / K;
  const int chunk = blockIdx.x % p.chunks;
  const int64_t first = blockIdx.x / p.chunks * per_block, last = min(first + per_block, p.parts());

  const auto read = [&] {
    if constexpr (kNorm) {
      norms.fill(norm, chunk * kWeightChannels, p.channels);
      __syncthreads();
      return ThroughNorm<kWeightChannels>{norms, norm.act};
    } else {
      return AsTheyAre();
    }
  }();
  float sums[K][kQuad] = {};
  for (int64_t part = first; part < last; ++part) {
    const DepthwiseBlock b(p, part * p.chunks + chunk, kWeightChannels);
    const T* const source = x + b.image * p.source_height * p.source_width * p.channels;
    const T* const g = grad + b.image * p.height * p.width * p.channels;
    int head = 0;
#pragma unroll 1
    for (int y = b.top; y < b.bottom; y += p.rows) {
      const int rows = min(p.rows, b.bottom - y), kept = y == b.top ? 0 : slots - Window::advance(p.rows);
      load_rows<kWeightChannels>(
          source, p.source_height, p.source_width, p.channels, p.aligned, b.channel, Window::source(y) + kept,
          Window::span(rows) - kept, Window::source(b.left), width, ring,
          head + kept < slots ? head + kept : head + kept - slots, slots, read);
      load_rows<kWeightChannels>(
          g, p.height, p.width, p.channels, p.aligned, b.channel, y, rows, b.left, p.columns, stage, 0, p.rows);
      __syncthreads();
      for (int s = group; s < rows * strips && group < groups; s += groups) {
        const int row = s / strips, strip = s % strips;
        const int i = row * kStride + tap, slot = head + i < slots ? head + i : head + i - slots;
        const T* const from = ring + (slot * width + Window::advance(strip * kStrip)) * pixel + quad;
        Quad gradient[kStrip];
#pragma unroll
        for (int j = 0; j < kStrip; ++j) {
          gradient[j] = load_quad(stage + (row * p.columns + strip * kStrip + j) * pixel + quad);
        }
#pragma unroll
        for (int i = 0; i < Window::span(kStrip); ++i) {
          const Quad value = load_quad(from + i * pixel);
#pragma unroll
          for (int j = 0; j < kStrip; ++j) {
            const int k = Window::tap(i, j);
            if (0 <= k && k < K) {
#pragma unroll
              for (int c = 0; c < kQuad; ++c) {
                sums[k][c] += value.v[c] * gradient[j].v[c];
              }
            }
          }
        }
      }
      __syncthreads();
      head += Window::advance(p.rows);
      head = head < slots ? head : head - slots;
    }
  }

  auto* const all = reinterpret_cast<float*>(ring); // [groups][channels][taps]; the loop ended with a barrier
  constexpr int count = kWeightChannels * K * K;
  if (group < groups) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        all[group * count + (quad + c) * K * K + tap * K + k] = sums[k][c];
      }
    }
  }
  __syncthreads();
  const int valid = min(kWeightChannels, p.channels - chunk * kWeightChannels) * K * K;
  float* const to =
      partial + (int64_t(blockIdx.x / p.chunks) * p.channels + chunk * kWeightChannels) * K * K;
  for (int i = threadIdx.x; i < valid; i += kDepthwiseThreads) {
    float sum = all[i];
    for (int other = 1; other < groups; ++other) {
      sum += all[other * count + i];
    }
    store(to + i, sum);
  }
}

template <typename T, int K, int kStride>
DepthwisePlan depthwise_weight_plan(const DepthwiseSize& s) {
  return depthwise_plan<T, ForwardWindow<K, kStride>, kWeightChannels>(
      s, false, SharedNorms<kWeightChannels>::count * sizeof(float),
      kWeightStrips / K * K * K * kWeightChannels * sizeof(float), kWeightBlocks);
}

// The plan's parts that one block of the weight's gradient sums: so many that its partial sum, written and read, is a
// tenth of what it loads, or that one block is left for each multiprocessor; and not more than kWeightBlocks.
template <typename T, int K, int kStride>
int64_t depthwise_parts_per_block(const DepthwisePlan& p) {
  const int64_t loads = int64_t(ForwardWindow<K, kStride>::span(p.band)) * p.source_width + int64_t(p.band) * p.width;
  const int64_t enough = divide_up(10 * 2 * K * K * sizeof(float), loads * sizeof(T));
  const int64_t most = std::min(enough, p.blocks() / multiprocessors());
  return std::max<int64_t>({1, most, divide_up(p.blocks(), kWeightBlocks * multiprocessors())});
}

// Rows of the workspace of depthwise_weight_gradient.
template <typename T>
int64_t depthwise_weight_parts(const DepthwiseSize& s) {
  return with_window(s, [&](auto k, auto stride) {
    const auto plan = depthwise_weight_plan<T, k(), stride()>(s);
    return int64_t(divide_up(plan.parts(), depthwise_parts_per_block<T, k(), stride()>(plan)));
  });
}

// grad_weight [channels][taps] where y = x * weight, or, where `norm` is not null, y = act(norm(x)) * weight; partial
// is a workspace [parts][channels][taps].
template <typename T, typename Out>
void depthwise_weight_gradient(
    const DepthwiseSize& s, const T* x, const NormAct<float>* norm, const T* grad, float* partial, Out* grad_weight,
    Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    auto plan = depthwise_weight_plan<T, k(), stride()>(s);
    plan.aligned = plan.aligned && is_aligned(x) && is_aligned(grad);
    const auto per_block = depthwise_parts_per_block<T, k(), stride()>(plan);
    const int64_t parts = divide_up(plan.parts(), per_block);
    launch(
        norm ? &depthwise_weight_kernel<T, k(), stride(), true> : &depthwise_weight_kernel<T, k(), stride(), false>,
        static_cast<unsigned>(parts * plan.chunks), kDepthwiseThreads, plan.shared_bytes, stream, x,
        norm ? *norm : NormAct<float>{}, grad, partial, plan, per_block);
    sum_parts(partial, parts, int64_t(s.channels) * k() * k(), grad_weight, stream);
  });
}

} // namespace supernet::cuda
