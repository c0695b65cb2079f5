// Device code of batch_norm_act_train, for channels_last images, [pixels, channels]: the statistics, then batch
// norm and activation in one pass; backward, the two sums per channel, then the gradient of the input.
//
// A thread keeps one vector of channels and walks over the pixels of its block, so the channels' values stay in
// registers. Statistics are taken around a first value in the thread and merged by Chan's update: in the block as a
// tree, over the blocks in a fixed order.
#pragma once

#include <algorithm>

#include "cuda/common.cuh"
#include "cuda/norm_act.cuh"
#include "cuda/reduce.cuh"

namespace supernet::cuda {

constexpr int kNormThreads = 256;
constexpr int kNormBlocks = 8; // for each multiprocessor, about
constexpr int kNormPixels = 8; // at least so many for each thread
constexpr int kNormLoads = 4; // of 16 bytes that a thread has in flight

struct NormPlan {
  int64_t pixels, per_block, parts; // all, those of a block, blocks along them
  int channels, lanes, slots, chunks; // vectors side by side, threads below each, blocks along the channels
  bool aligned;

  int64_t blocks() const {
    return parts * chunks;
  }
};

template <typename T>
NormPlan norm_plan(int64_t pixels, int64_t channels) {
  const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  NormPlan p = {};
  p.pixels = pixels;
  p.channels = static_cast<int>(channels);
  const auto vectors = up(channels, Vec<T>::size);
  p.chunks = static_cast<int>(up(vectors, 32));
  p.lanes = static_cast<int>(up(vectors, p.chunks));
  p.chunks = static_cast<int>(up(vectors, p.lanes));
  p.slots = kNormThreads / p.lanes;
  const auto wanted = std::max<int64_t>(1, kNormBlocks * multiprocessors() / p.chunks);
  p.per_block = std::max<int64_t>(up(pixels, wanted), p.slots * kNormPixels);
  p.parts = up(pixels, p.per_block);
  p.aligned = channels % Vec<T>::size == 0;
  return p;
}

// Blocks along the pixels: rows of the workspaces below.
template <typename T>
int64_t norm_parts(int64_t pixels, int64_t channels) {
  return norm_plan<T>(pixels, channels).parts;
}

// What a thread works on.
struct NormThread {
  int64_t part, first, last; // its pixels are first, first + slots, …
  int slot, channel; // its first channel
  bool active;

  __device__ NormThread(const NormPlan& p, int vector) {
    const int chunk = static_cast<int>(blockIdx.x % p.chunks), lane = threadIdx.x % p.lanes;
    slot = threadIdx.x / p.lanes;
    channel = (chunk * p.lanes + lane) * vector;
    part = blockIdx.x / p.chunks;
    first = part * p.per_block + slot;
    last = min((part + 1) * p.per_block, p.pixels);
    active = slot < p.slots && channel < p.channels;
  }
};

// Calls use(pixel, its vectors in each of the arrays [pixels, channels]) for a thread's pixels. The vectors of a batch
// of pixels are all asked for before the first is used: one in flight for each thread does not fill the way to memory.
template <bool kWhole, typename T, typename Use, typename... Arrays>
__device__ __forceinline__ void for_pixels(const NormPlan& p, const NormThread& t, Use use, const Arrays*... arrays) {
  constexpr int count = sizeof...(Arrays), batch = kWhole ? kNormLoads / count : 1;
  const T* const from[count] = {arrays...};
  const auto load_pixel = [&](int64_t pixel, Words(&values)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      values[i] = load_words<kWhole>(from[i] + pixel * p.channels, t.channel, p.channels);
    }
  };
  const auto use_words = [&](int64_t pixel, const Words(&values)[count]) {
    Vec<T> vectors[count];
#pragma unroll
    for (int i = 0; i < count; ++i) {
      vectors[i] = values[i].template as<T>();
    }
    use(pixel, vectors);
  };
  int64_t pixel = t.first;
#pragma unroll 1
  for (; pixel + (batch - 1) * p.slots < t.last; pixel += batch * p.slots) {
    Words values[batch][count];
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      load_pixel(pixel + b * p.slots, values[b]);
    }
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      use_words(pixel + b * p.slots, values[b]);
    }
  }
#pragma unroll 1
  for (; batch > 1 && pixel < t.last; pixel += p.slots) {
    Words values[count];
    load_pixel(pixel, values);
    use_words(pixel, values);
  }
}

// Adds the slots' values as a tree; the sum is in slot 0. `scratch` is [slots][lanes]. Every thread calls.
template <typename Value, typename Add>
__device__ Value reduce_slots(const NormPlan& p, int slot, Value mine, Value* scratch, Add add) {
  if (slot < p.slots) {
    scratch[threadIdx.x] = mine;
  }
  for (int count = p.slots; count > 1; count = (count + 1) / 2) {
    const int half = (count + 1) / 2;
    __syncthreads();
    if (slot + half < count) {
      scratch[threadIdx.x] = add(scratch[threadIdx.x], scratch[threadIdx.x + half * p.lanes]);
    }
  }
  const Value sum = scratch[threadIdx.x];
  __syncthreads(); // before the next use of scratch
  return sum;
}

// moments[part][count, mean, squares][channel]
template <typename T, typename Acc>
__global__ void __launch_bounds__(kNormThreads, 2) norm_moments_kernel(const T* x, Acc* moments, NormPlan p) {
  constexpr int size = Vec<T>::size;
  SUPERNET_SHARED(Moments<Acc>, scratch, kNormThreads);
  const NormThread t(p, size);
  ShiftedSums<Acc> sums[size];
  int64_t count = 0;
  if (t.active) {
    with_whole(p.aligned, [&](auto whole) {
      for_pixels<decltype(whole)::value, T>(
          p, t,
          [&](int64_t, const Vec<T>(&in)[1]) {
#pragma unroll
            for (int j = 0; j < size; ++j) {
              sums[j].add(static_cast<Acc>(in[0].v[j]), count == 0);
            }
            ++count;
          },
          x);
    });
  }
#pragma unroll
  for (int j = 0; j < size; ++j) {
    const auto sum = reduce_slots(
        p, t.slot, sums[j].moments(static_cast<Acc>(count)), scratch,
        [](const Moments<Acc>& a, const Moments<Acc>& b) { return merged(a, b); });
    if (t.slot == 0 && t.channel + j < p.channels) {
      Acc* const to = moments + t.part * 3 * p.channels + t.channel + j;
      store(to, sum.count);
      store(to + p.channels, sum.mean);
      store(to + 2 * p.channels, sum.squares);
    }
  }
}

// y = act(gamma (x - mean) / sqrt(var + eps) + beta)
template <typename T, typename Acc>
__global__ void __launch_bounds__(kNormThreads) norm_act_kernel(const T* x, NormAct<Acc> norm, T* y, NormPlan p) {
  constexpr int size = Vec<T>::size;
  const NormThread t(p, size);
  if (!t.active) {
    return; // no barrier follows
  }
  const auto norms = load_norms<size>(norm, t.channel, p.channels);
  with_whole(p.aligned, [&](auto whole) {
    constexpr bool kWhole = decltype(whole)::value;
    for_pixels<kWhole, T>(
        p, t,
        [&](int64_t pixel, Vec<T>(&in)[1]) {
          auto& value = in[0];
#pragma unroll
          for (int j = 0; j < size; ++j) {
            value.v[j] = static_cast<T>(activate(norm.act, norms.z(j, static_cast<Acc>(value.v[j]))));
          }
          store_vec<kWhole>(y + pixel * p.channels, t.channel, p.channels, value);
        },
        x);
  });
}

// (The second launch bound, blocks that a multiprocessor should hold, is the largest at which ptxas spills nothing.)
// The gradient behind the batch norm, g = grad · act'(z), summed: partial[part][0][channel] = Σ g, the gradient of
// beta, and partial[part][1][channel] = Σ g (x - mean) / sqrt(var + eps), that of gamma.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kNormThreads, sizeof(Acc) > 4 ? 1 : 2) norm_act_sums_kernel(
    const T* grad, const T* x, NormAct<Acc> norm, Acc* partial, NormPlan p) {
  constexpr int size = Vec<T>::size;
  using Channels = Values<size, Acc>;
  SUPERNET_SHARED(Acc, scratch, kNormThreads);
  const NormThread t(p, size);
  Acc sums[2][size] = {};
  if (t.active) {
    const Channels center(norm.mean, t.channel, p.channels, 0), shift(norm.beta, t.channel, p.channels, 0);
    const Channels scale(norm.gamma, t.channel, p.channels, 1);
    Channels invstd(norm.var, t.channel, p.channels, 1);
#pragma unroll
    for (int j = 0; j < size; ++j) {
      invstd.v[j] = rsqrt(invstd.v[j] + norm.eps);
    }
    with_whole(p.aligned, [&](auto whole) {
      for_pixels<decltype(whole)::value, T>(
          p, t,
          [&](int64_t, const Vec<T>(&in)[2]) {
#pragma unroll
            for (int j = 0; j < size; ++j) {
              const Acc normal = (static_cast<Acc>(in[0].v[j]) - center.v[j]) * invstd.v[j];
              const Acc z = normal * scale.v[j] + shift.v[j];
              const Acc g = activate_backward(norm.act, static_cast<Acc>(in[1].v[j]), z);
              sums[0][j] += g;
              sums[1][j] += g * normal;
            }
          },
          x, grad);
    });
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < size; ++j) {
      const Acc sum = reduce_slots(p, t.slot, sums[i][j], scratch, [](Acc a, Acc b) { return a + b; });
      if (t.slot == 0 && t.channel + j < p.channels) {
        store(partial + (t.part * 2 + i) * p.channels + t.channel + j, sum);
      }
    }
  }
}

// grad_x from the sums over all pixels, [2][channels], which it hands on as the gradients of beta and gamma.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kNormThreads) norm_act_grad_kernel(
    const T* grad, const T* x, NormAct<Acc> norm, const Acc* sums, T* grad_x, Acc* grad_gamma, Acc* grad_beta,
    NormPlan p) {
  constexpr int size = Vec<T>::size;
  using Channels = Values<size, Acc>;
  const NormThread t(p, size);
  if (!t.active) {
    return; // no barrier follows
  }
  const auto norms = load_norms<size>(norm, t.channel, p.channels);
  Channels invstd(norm.var, t.channel, p.channels, 1);
#pragma unroll
  for (int j = 0; j < size; ++j) {
    invstd.v[j] = rsqrt(invstd.v[j] + norm.eps);
  }
  Channels mean_g(sums, t.channel, p.channels, 0), slope(sums + p.channels, t.channel, p.channels, 0);
  if (grad_gamma && t.first == 0) {
    for (int j = 0; j < size && t.channel + j < p.channels; ++j) {
      store(grad_beta + t.channel + j, mean_g.v[j]);
      store(grad_gamma + t.channel + j, slope.v[j]);
    }
  }
  // grad_x = gamma / std (g - Σg / n - normal Σ(g normal) / n)
#pragma unroll
  for (int j = 0; j < size; ++j) {
    mean_g.v[j] /= static_cast<Acc>(p.pixels);
    slope.v[j] *= invstd.v[j] / static_cast<Acc>(p.pixels);
  }
  with_whole(p.aligned, [&](auto whole) {
    constexpr bool kWhole = decltype(whole)::value;
    for_pixels<kWhole, T>(
        p, t,
        [&](int64_t pixel, const Vec<T>(&in)[2]) {
          Vec<T> out;
#pragma unroll
          for (int j = 0; j < size; ++j) {
            const Acc value = static_cast<Acc>(in[0].v[j]);
            const Acc g = activate_backward(norm.act, static_cast<Acc>(in[1].v[j]), norms.z(j, value));
            out.v[j] = static_cast<T>(norms.scale[j] * (g - mean_g.v[j] - norms.distance(j, value) * slope.v[j]));
          }
          store_vec<kWhole>(grad_x + pixel * p.channels, t.channel, p.channels, out);
        },
        x, grad);
  });
}

// ---- launches ----

// mean and biased variance of x [pixels, channels]; `moments` is a workspace [norm_parts][3][channels].
template <typename T, typename Acc>
void norm_statistics(
    const T* x, Acc* moments, Acc* mean, Acc* var, int64_t pixels, int64_t channels, Stream stream) {
  auto plan = norm_plan<T>(pixels, channels);
  plan.aligned = plan.aligned && is_aligned(x);
  launch(
      &norm_moments_kernel<T, Acc>, static_cast<unsigned>(plan.blocks()), kNormThreads, 0, stream, x, moments, plan);
  merge_moments<Acc>(moments, plan.parts, channels, mean, var, stream);
}

template <typename T, typename Acc>
void norm_act(const T* x, const NormAct<Acc>& norm, T* y, int64_t pixels, int64_t channels, Stream stream) {
  auto plan = norm_plan<T>(pixels, channels);
  plan.aligned = plan.aligned && is_aligned(x) && is_aligned(y);
  launch(
      &norm_act_kernel<T, Acc>, static_cast<unsigned>(plan.blocks()), kNormThreads, 0, stream, x, norm, y, plan);
}

// The gradient of x [pixels, channels] from that behind the activation and its sums in `parts` rows, partial
// [parts][2][channels], as norm_act_sums_kernel leaves them. grad_gamma and grad_beta may be null; `sums` is a
// workspace [2][channels].
template <typename T, typename Acc>
void norm_act_gradient(
    const T* grad, const T* x, const NormAct<Acc>& norm, const Acc* partial, int64_t parts, Acc* sums, T* grad_x,
    Acc* grad_gamma, Acc* grad_beta, int64_t pixels, int64_t channels, Stream stream) {
  sum_parts<Acc, Acc>(partial, parts, 2 * channels, sums, stream);
  auto plan = norm_plan<T>(pixels, channels);
  plan.aligned = plan.aligned && is_aligned(grad) && is_aligned(x) && is_aligned(grad_x);
  launch(
      &norm_act_grad_kernel<T, Acc>, static_cast<unsigned>(plan.blocks()), kNormThreads, 0, stream, grad, x, norm,
      sums, grad_x, grad_gamma, grad_beta, plan);
}

// The same with the sums taken here; partial is a workspace [norm_parts][2][channels].
template <typename T, typename Acc>
void norm_act_backward(
    const T* grad, const T* x, const NormAct<Acc>& norm, Acc* partial, Acc* sums, T* grad_x, Acc* grad_gamma,
    Acc* grad_beta, int64_t pixels, int64_t channels, Stream stream) {
  auto plan = norm_plan<T>(pixels, channels);
  plan.aligned = plan.aligned && is_aligned(grad) && is_aligned(x);
  launch(
      &norm_act_sums_kernel<T, Acc>, static_cast<unsigned>(plan.blocks()), kNormThreads, 0, stream, grad, x, norm,
      partial, plan);
  norm_act_gradient(grad, x, norm, partial, plan.parts, sums, grad_x, grad_gamma, grad_beta, pixels, channels, stream);
}

} // namespace supernet::cuda
