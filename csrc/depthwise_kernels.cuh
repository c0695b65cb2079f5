// Device code of depthwise_conv2d, for channels_last images: forward, gradient of the input, gradient of the weight.
//
// A block owns 32 channels of a band of the output, some columns wide, and walks down it. The source rows that its
// next few output rows need lie in a ring in shared memory, so that a source element is read once, but for the
// halo at the band's borders. A thread computes 4 neighbouring outputs of 4 channels from them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda_common.cuh"
#include "cuda_reduce.cuh"

namespace supernet::cuda {

constexpr int kDepthwiseThreads = 128;
constexpr int kDepthwiseResident = 5; // blocks that a multiprocessor should hold: at most 96 registers
constexpr int kDepthwiseChannels = 32; // of a block
constexpr int kQuads = kDepthwiseChannels / kQuad; // a thread computes four channels
constexpr int kStrip = 4; // outputs of a thread
constexpr int kStrips = kDepthwiseThreads / kQuads; // of a block

// The weight's gradient takes fewer channels to a block: each block leaves a partial sum of their taps behind, and
// with fewer channels fewer such sums keep the device busy.
constexpr int kWeightChannels = 16;
constexpr int kWeightQuads = kWeightChannels / kQuad;
constexpr int kWeightStrips = kDepthwiseThreads / kWeightQuads;

// Elements from one pixel to the next in shared memory; with 16 bytes between those of less than 128, the threads that
// read at once find different banks.
template <typename T, int kChannels = kDepthwiseChannels>
constexpr int kPixel = kChannels + (kChannels * sizeof(T) < 128 ? 16 / sizeof(T) : 0);

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

// Wanted at least: five and three for each multiprocessor of a large device. More of them would read more halo.
constexpr int64_t kDepthwiseBlocks = 640, kWeightBlocks = 384;
constexpr int64_t kFewWeightBlocks = 128; // not less than this for the sake of fewer partial sums

inline int divide_up(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

// `extra` bytes of shared memory come on top of ring and stage, which have at least `least`.
template <typename T, typename Window, int kChannels = kDepthwiseChannels>
DepthwisePlan depthwise_plan(
    const DepthwiseSize& s, bool gradient, size_t extra, size_t least, int64_t blocks = kDepthwiseBlocks) {
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
  const int wanted = divide_up(blocks, p.batch * p.chunks * p.tiles);
  const int most = divide_up(p.height, 2 * Window::kernel); // more would read too much halo
  p.band = divide_up(divide_up(p.height, p.rows), std::min(wanted, most)) * p.rows;
  p.bands = divide_up(p.height, p.band);
  p.aligned = p.channels % Vec<T>::size == 0;
  p.shared_bytes = static_cast<int>(bytes());
  return p;
}

// ---- parts of kernels ----

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

// Calls visit(row, column, v) for all pixels of a rectangle and each vector of their channels, the block's threads side
// by side; v is the vector's first channel.
template <typename T, int kChannels = kDepthwiseChannels, typename Visit>
__device__ __forceinline__ void for_vectors(int rows, int columns, Visit visit) {
  constexpr int vectors = kChannels / Vec<T>::size, step = kDepthwiseThreads / vectors;
  const int first = threadIdx.x / vectors, v = threadIdx.x % vectors * Vec<T>::size;
  int row = first / columns, column = first % columns;
  while (row < rows) {
    visit(row, column, v);
    for (column += step; column >= columns; column -= columns) {
      ++row;
    }
  }
}

// Rows of an image [height, width, channels] from `top` on to the slots of a ring from `slot` on; 0 outside the image.
template <int kChannels = kDepthwiseChannels, typename T>
__device__ void load_rows(
    const T* image, int height, int width, int channels, bool aligned, int channel, int top, int rows, int left,
    int columns, T* ring, int slot, int slots) {
  for_vectors<T, kChannels>(rows, columns, [&](int row, int column, int v) {
    const int y = top + row, x = left + column;
    const bool inside = 0 <= y && y < height && 0 <= x && x < width;
    const T* const pixel = image + (int64_t(inside ? y : 0) * width + (inside ? x : 0)) * channels;
    const int at = slot + row < slots ? slot + row : slot + row - slots;
    shared_vec(ring + (at * columns + column) * kPixel<T, kChannels> + v) =
        load_vec(pixel, channel + v, inside ? channels : 0, aligned);
  });
}

// The weight [channels, K, K] of 32 channels as floats [K * K][32]; 0 beyond the last. Says whether one is not 0, after
// the next barrier, in *any, which is 0 before.
template <int K, typename T>
__device__ void load_taps(const T* weight, int channels, int channel, bool aligned, float* taps, int* any) {
  constexpr int count = kDepthwiseChannels * K * K, size = Vec<T>::size;
  for (int i = threadIdx.x * size; i < count; i += kDepthwiseThreads * size) {
    const auto values = load_vec(weight, int64_t(channel) * K * K + i, int64_t(channels) * K * K, aligned);
#pragma unroll
    for (int j = 0; j < size; ++j) {
      const float value = static_cast<float>(values.v[j]);
      taps[(i + j) % (K * K) * kDepthwiseChannels + (i + j) / (K * K)] = value;
      if (value != 0.f) {
        *any = 1; // from any thread, always the same
      }
    }
  }
}

// sums[j] += what one source row gives to output j of a strip. `row` points to the strip's first source element, kNext
// elements from pixel to pixel, `taps` to the row's first tap, [K][kChannels], both at this thread's channels.
template <typename Window, int kNext, int kChannels, int kOutputs, typename T>
__device__ __forceinline__ void add_row(float (&sums)[kOutputs][kQuad], const T* row, const float* taps) {
  Quad weight[Window::kernel];
#pragma unroll
  for (int k = 0; k < Window::kernel; ++k) {
    weight[k] = load_quad(taps + k * kChannels);
  }
#pragma unroll
  for (int i = 0; i < Window::span(kOutputs); ++i) {
    const Quad x = load_quad(row + i * kNext);
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      const int k = Window::tap(i, j);
      if (0 <= k && k < Window::kernel) {
#pragma unroll
        for (int c = 0; c < kQuad; ++c) {
          sums[j][c] += x.v[c] * weight[k].v[c];
        }
      }
    }
  }
}

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

// partial[block][channel][tap] = Σ grad · x over the parts of `per_block` neighbouring blocks of the plan. A thread
// sums one row of taps for 4 channels; groups of threads share the pixels.
template <typename T, int K, int kStride>
__global__ void __launch_bounds__(kDepthwiseThreads, 4) depthwise_weight_kernel(
    const T* x, const T* grad, float* partial, DepthwisePlan p, int64_t per_block) {
  using Window = ForwardWindow<K, kStride>;
  constexpr int groups = kWeightStrips / K, pixel = kPixel<T, kWeightChannels>;
  SUPERNET_DYNAMIC_SHARED(T, ring);
  const int slots = Window::span(p.rows), width = Window::span(p.columns), strips = p.columns / kStrip;
  T* const stage = ring + slots * width * pixel; // rows of the gradient
  const int quad = threadIdx.x % kWeightQuads * kQuad;
  const int tap = threadIdx.x / kWeightQuads % K, group = threadIdx.x / kWeightQuads / K;
  const int chunk = blockIdx.x % p.chunks;
  const int64_t first = blockIdx.x / p.chunks * per_block, last = min(first + per_block, p.parts());

  float sums[K][kQuad] = {};
  for (int64_t part = first; part < last; ++part) {
    const DepthwiseBlock b(p, part * p.chunks + chunk, kWeightChannels);
    const T* const source = x + b.image * p.source_height * p.source_width * p.channels;
    const T* const g = grad + b.image * p.height * p.width * p.channels;
    const auto load_source = [&](int top, int rows, int slot) {
      load_rows<kWeightChannels>(
          source, p.source_height, p.source_width, p.channels, p.aligned, b.channel, top, rows,
          Window::source(b.left), width, ring, slot, slots);
    };
    int head = 0;
    load_source(Window::source(b.top), Window::span(min(p.rows, b.bottom - b.top)), 0);
    for (int y = b.top; y < b.bottom; y += p.rows) {
      const int rows = min(p.rows, b.bottom - y), next = min(p.rows, b.bottom - y - p.rows);
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
      if (next > 0) {
        load_source(
            Window::source(y) + slots, Window::span(next) - (slots - Window::advance(p.rows)), head);
        head += Window::advance(p.rows);
        head = head < slots ? head : head - slots;
      }
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

template <typename T, int K, int kStride>
DepthwisePlan depthwise_weight_plan(const DepthwiseSize& s) {
  return depthwise_plan<T, ForwardWindow<K, kStride>, kWeightChannels>(
      s, false, 0, kWeightStrips / K * K * K * kWeightChannels * sizeof(float), kWeightBlocks);
}

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

// The plan's parts that one block of the weight's gradient sums: so many that its partial sum, written and read, is a
// tenth of what it loads, or that kFewWeightBlocks are left; and not more than kWeightBlocks.
template <typename T, int K, int kStride>
int64_t depthwise_parts_per_block(const DepthwisePlan& p) {
  const int64_t loads = int64_t(ForwardWindow<K, kStride>::span(p.band)) * p.source_width + int64_t(p.band) * p.width;
  const int64_t enough = divide_up(10 * 2 * K * K * sizeof(float), loads * sizeof(T));
  const int64_t most = std::min(enough, p.blocks() / kFewWeightBlocks);
  return std::max({int64_t(1), most, p.blocks() / kWeightBlocks});
}

// Rows of the workspace of depthwise_weight_gradient.
template <typename T>
int64_t depthwise_weight_parts(const DepthwiseSize& s) {
  return with_window(s, [&](auto k, auto stride) {
    const auto plan = depthwise_weight_plan<T, k(), stride()>(s);
    return int64_t(divide_up(plan.parts(), depthwise_parts_per_block<T, k(), stride()>(plan)));
  });
}

// grad_weight [channels][taps]; partial is a workspace [parts][channels][taps].
template <typename T, typename Out>
void depthwise_weight_gradient(
    const DepthwiseSize& s, const T* x, const T* grad, float* partial, Out* grad_weight, Stream stream) {
  with_window(s, [&](auto k, auto stride) {
    auto plan = depthwise_weight_plan<T, k(), stride()>(s);
    plan.aligned = plan.aligned && is_aligned(x) && is_aligned(grad);
    const auto per_block = depthwise_parts_per_block<T, k(), stride()>(plan);
    const int64_t parts = divide_up(plan.parts(), per_block);
    launch(
        &depthwise_weight_kernel<T, k(), stride()>, static_cast<unsigned>(parts * plan.chunks), kDepthwiseThreads,
        plan.shared_bytes, stream, x, grad, partial, plan, per_block);
    sum_parts(partial, parts, int64_t(s.channels) * k() * k(), grad_weight, stream);
  });
}

} // namespace supernet::cuda
