// Device code of depthwise_conv2d, for channels_last images: forward and gradient of the input.
//
// A block owns 32 channels of a band of the output, some columns wide, and walks down it. The source rows that its
// next few output rows need lie in a ring in shared memory, so that a source element is read once, but for the
// halo at the band's borders. A thread computes 4 neighbouring outputs of 4 channels from them.
#pragma once

#include "cuda/depthwise_rows.cuh"
#include "cuda/reduce.cuh"

namespace supernet::cuda {

// What a kernel does besides.
enum class DepthwiseForm {
  plain,
  statistics, // takes those of its output
  behind_norm, // the same of a source that it reads through a batch norm with activation
  norm_gradient, // hands the gradient on through that activation, and sums what the batch norm's needs
};

// ---- what a block leaves behind: partial sums of its outputs ----

// Their statistics: a thread adds 4 channels of its outputs.
struct OutputStatistics {
  ShiftedSums<float> sums[kQuad];
  int count = 0;

  __device__ __forceinline__ void add(const float (&values)[kQuad]) {
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      sums[c].add(values[c], count == 0);
    }
    ++count;
  }

  // partial[part][count, mean, squares][channel]; `all` is shared memory [kStrips][kDepthwiseChannels].
  __device__ void store_to(float* partial, const DepthwisePlan& p, const DepthwiseBlock& b, Moments<float>* all) const {
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      all[threadIdx.x * kQuad + c] = sums[c].moments(static_cast<float>(count));
    }
    __syncthreads();
    const int channel = b.channel + threadIdx.x;
    if (threadIdx.x < kDepthwiseChannels && channel < p.channels) {
      auto sum = all[threadIdx.x];
      for (int s = 1; s < kStrips; ++s) {
        sum = merged(sum, all[s * kDepthwiseChannels + threadIdx.x]);
      }
      float* const to = partial + b.part * 3 * p.channels + channel;
      store(to, sum.count);
      store(to + p.channels, sum.mean);
      store(to + 2 * p.channels, sum.squares);
    }
  }
};

// Where the output is the gradient behind the batch norm and activation of x: it goes on through the activation, g, and
// a thread sums g and g (x - mean) of its vectors.
template <typename T>
struct NormGradientSums {
  static constexpr int size = Vec<T>::size, lanes = kDepthwiseChannels / size;
  static constexpr int groups = kDepthwiseThreads / lanes; // threads with the same channels
  float sums[2][size] = {};

  __device__ __forceinline__ Vec<T> add(
      const SharedNorms<kDepthwiseChannels>& norms, Activation act, const Vec<T>& grad, const Vec<T>& x, int first) {
    const auto norm = norms.template read<size>(first);
    Vec<T> out;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      const float in = static_cast<float>(x.v[j]);
      out.v[j] = static_cast<T>(activate_backward(act, static_cast<float>(grad.v[j]), norm.z(j, in)));
      const float g = static_cast<float>(out.v[j]); // as the next pass will read it: their mean cancels
      sums[0][j] += g;
      sums[1][j] += g * norm.distance(j, in);
    }
    return out;
  }

  // partial[part][Σ g, Σ g (x - mean) / sqrt(var + eps)][channel]; `all` is shared memory
  // [groups][2][kDepthwiseChannels].
  __device__ void store_to(
      float* partial, const DepthwisePlan& p, const DepthwiseBlock& b, const NormAct<float>& norm, float* all) const {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < size; ++j) {
        all[(threadIdx.x / lanes * 2 + i) * kDepthwiseChannels + threadIdx.x % lanes * size + j] = sums[i][j];
      }
    }
    __syncthreads();
    const int i = threadIdx.x / kDepthwiseChannels, channel = b.channel + threadIdx.x % kDepthwiseChannels;
    if (i < 2 && channel < p.channels) {
      float sum = all[threadIdx.x];
      for (int group = 1; group < groups; ++group) {
        sum += all[group * 2 * kDepthwiseChannels + threadIdx.x];
      }
      const float invstd = i == 0 ? 1.f : rsqrt(cuda::load(norm.var + channel) + norm.eps);
      store(partial + (b.part * 2 + i) * p.channels + channel, sum * invstd);
    }
  }
};

// ---- kernel ----

// Blocks that a multiprocessor should hold: so many that ptxas has the registers to do without spills.
template <typename Window, DepthwiseForm kForm>
constexpr int kDepthwiseResident = kForm == DepthwiseForm::statistics && Window::advance(1) > 1 ? 3 : 4;

// output = the convolution of `source` by Window, channel by channel, and what kForm says: `norm` is that before the
// convolution, norm_input what it takes. `partial` gets what the block leaves behind.
template <typename T, typename Window, DepthwiseForm kForm>
__global__ void __launch_bounds__(kDepthwiseThreads, kDepthwiseResident<Window, kForm>) depthwise_kernel(
    const T* source, const T* weight, T* output, NormAct<float> norm, const T* norm_input, float* partial,
    DepthwisePlan p) {
  constexpr int K = Window::kernel;
  constexpr bool statistics = kForm == DepthwiseForm::statistics || kForm == DepthwiseForm::behind_norm;
  constexpr bool norm_gradient = kForm == DepthwiseForm::norm_gradient;
  SUPERNET_DYNAMIC_SHARED(float, taps);
  int* const any = reinterpret_cast<int*>(taps + K * K * kTapRow<>);
  const SharedNorms<kDepthwiseChannels> norms = {reinterpret_cast<float*>(any + 4)}; // on 16 bytes
  T* const ring = reinterpret_cast<T*>(norms.values + norms.count);
  const int slots = Window::span(p.rows), width = Window::span(p.columns);
  T* const stage = ring + slots * width * kPixel<T>;
  const DepthwiseBlock b(p, blockIdx.x);
  source += b.image * p.source_height * p.source_width * p.channels;
  const int64_t image = b.image * p.height * p.width * p.channels; // of the output
  const int quad = threadIdx.x % kQuads * kQuad, strips = p.columns / kStrip;
  const int row = threadIdx.x / kQuads / strips, strip = threadIdx.x / kQuads % strips;

  if (threadIdx.x == 0) {
    *any = 0;
  }
  __syncthreads();
  load_taps<K>(weight, p.channels, b.channel, taps, any);
  if constexpr (kForm == DepthwiseForm::behind_norm || norm_gradient) {
    norms.fill(norm, b.channel, p.channels);
  }
  __syncthreads();
  const bool on = *any != 0; // else the outputs are 0, and the source need not be read
  // The source of output rows y, y + 1, … to a ring that starts at `head`: of them the band's first step left none there.
  const auto load_source = [&](int y, int rows, int head) {
    if (on) {
      const int kept = y == b.top ? 0 : slots - Window::advance(p.rows);
      const auto load_through = [&](const auto& read) {
        load_rows(
            source, p.source_height, p.source_width, p.channels, p.aligned, b.channel, Window::source(y) + kept,
            Window::span(rows) - kept, Window::source(b.left), width, ring,
            head + kept < slots ? head + kept : head + kept - slots, slots, read);
      };
      if constexpr (kForm == DepthwiseForm::behind_norm) {
        load_through(ThroughNorm<kDepthwiseChannels>{norms, norm.act});
      } else {
        load_through(AsTheyAre());
      }
    }
  };
  OutputStatistics output_statistics;
  NormGradientSums<T> gradient_sums;
  int head = 0; // where the ring starts
#pragma unroll 1
  for (int y = b.top; y < b.bottom; y += p.rows) {
    const int rows = min(p.rows, b.bottom - y);
    load_source(y, rows, head);
    __syncthreads(); // the ring is filled, and the stage is empty
    if (row < rows) {
      float sums[kStrip][kQuad] = {};
      if (on) {
        for (int i = Window::begin(row); i < Window::end(row); ++i) {
          const int slot = head + i < slots ? head + i : head + i - slots;
          add_row<Window, kPixel<T>, kDepthwiseChannels>(
              sums, ring + (slot * width + Window::advance(strip * kStrip)) * kPixel<T> + quad,
              taps + Window::tap(i, row) * K * kTapRow<> + quad);
        }
      }
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        store_quad(stage + (row * p.columns + strip * kStrip + j) * kPixel<T> + quad, sums[j]);
        if (statistics && b.left + strip * kStrip + j < p.width) {
          output_statistics.add(sums[j]);
        }
      }
    }
    __syncthreads();
    const auto out = image + (int64_t(y) * p.width + b.left) * p.channels;
    with_whole(p.aligned, [&](auto whole) {
      constexpr bool kWhole = decltype(whole)::value;
      for_vectors<T, kDepthwiseChannels, norm_gradient && kWhole ? kRowLoads : 1>(
          rows, min(p.columns, p.width - b.left),
          [&](int r, int column, int v) {
            Fetched x = {{}, (r << 16) + column};
            if (norm_gradient && b.channel + v < p.channels) {
              x.words = load_words<kWhole>(
                  norm_input + out + (int64_t(r) * p.width + column) * p.channels, b.channel + v, p.channels);
            }
            return x;
          },
          [&](int v) {
            return [&, v](const Fetched& x) {
              const int r = x.at >> 16, column = x.at & 0xffff;
              Vec<T> value = *counted(reinterpret_cast<const Vec<T>*>(stage + (r * p.columns + column) * kPixel<T> + v));
              if constexpr (norm_gradient) {
                value = gradient_sums.add(norms, norm.act, value, x.words.template as<T>(), v);
              }
              if (b.channel + v < p.channels) {
                store_vec<kWhole>(
                    output + out + (int64_t(r) * p.width + column) * p.channels, b.channel + v, p.channels, value);
              }
            };
          });
    });
    head += Window::advance(p.rows);
    head = head < slots ? head : head - slots;
  }

  if constexpr (statistics) {
    output_statistics.store_to(partial, p, b, reinterpret_cast<Moments<float>*>(ring));
  } else if constexpr (norm_gradient) {
    gradient_sums.store_to(partial, p, b, norm, reinterpret_cast<float*>(ring));
  }
}

// ---- launches ----

// Of shared memory before the ring: the taps, whether one is not 0, and the batch norm of the channels.
template <int K>
constexpr size_t kHeadBytes =
    (K * K * kTapRow<> + 4 + SharedNorms<kDepthwiseChannels>::count) * sizeof(float);

template <typename T, int K, int kStride>
DepthwisePlan depthwise_forward_plan(const DepthwiseSize& s) {
  return depthwise_plan<T, ForwardWindow<K, kStride>>(
      s, false, kHeadBytes<K>, kStrips * kDepthwiseChannels * sizeof(Moments<float>));
}

template <typename T, int K, int kStride>
DepthwisePlan depthwise_gradient_plan(const DepthwiseSize& s) {
  return depthwise_plan<T, GradientWindow<K, kStride>>(
      s, true, kHeadBytes<K>, NormGradientSums<T>::groups * 2 * kDepthwiseChannels * sizeof(float));
}

// Rows of what depthwise_forward leaves behind.
template <typename T>
int64_t depthwise_moment_parts(const DepthwiseSize& s) {
  return with_window(s, [&](auto k, auto stride) { return depthwise_forward_plan<T, k(), stride()>(s).parts(); });
}

// Rows of what depthwise_input_gradient leaves behind.
template <typename T>
int64_t depthwise_gradient_parts(const DepthwiseSize& s) {
  return with_window(s, [&](auto k, auto stride) { return depthwise_gradient_plan<T, k(), stride()>(s).parts(); });
}

// y = x * weight. `moments`, if not null, gets the statistics of y in parts, [parts][count, mean, squares][channels].
// With those, `norm` may be not null: then y = act(norm(x)) * weight, padded with 0 behind the activation.
template <typename T>
void depthwise_forward(
    const DepthwiseSize& s, const T* x, const NormAct<float>* norm, const T* weight, T* y, float* moments,
    Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    using Window = ForwardWindow<k(), stride()>;
    auto plan = depthwise_forward_plan<T, k(), stride()>(s);
    plan.aligned = plan.aligned && is_aligned(x) && is_aligned(y);
    launch(
        norm          ? &depthwise_kernel<T, Window, DepthwiseForm::behind_norm>
            : moments ? &depthwise_kernel<T, Window, DepthwiseForm::statistics>
                      : &depthwise_kernel<T, Window, DepthwiseForm::plain>,
        static_cast<unsigned>(plan.blocks()), kDepthwiseThreads, plan.shared_bytes, stream, x, weight, y,
        norm ? *norm : NormAct<float>{}, nullptr, moments, plan);
  });
}

// grad_x, the gradient of x where y = x * weight. Or, where `norm` is not null, that of z = norm(x) where
// y = act(z) * weight: then partial [parts][2][channels] gets the sums that norm_act_gradient goes on with.
template <typename T>
void depthwise_input_gradient(
    const DepthwiseSize& s, const T* grad, const T* weight, const T* x, const NormAct<float>* norm, T* grad_x,
    float* partial, Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    using Window = GradientWindow<k(), stride()>;
    auto plan = depthwise_gradient_plan<T, k(), stride()>(s);
    plan.aligned = plan.aligned && is_aligned(grad) && is_aligned(grad_x) && (!norm || is_aligned(x));
    launch(
        norm ? &depthwise_kernel<T, Window, DepthwiseForm::norm_gradient>
             : &depthwise_kernel<T, Window, DepthwiseForm::plain>,
        static_cast<unsigned>(plan.blocks()), kDepthwiseThreads, plan.shared_bytes, stream, grad, weight, grad_x,
        norm ? *norm : NormAct<float>{}, x, partial, plan);
  });
}

} // namespace supernet::cuda
