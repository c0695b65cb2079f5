// Device code that dw_separable and inverted_bottleneck share, in their inference form, for channels_last images.
//
// A block computes a rectangle of output pixels in one launch. It takes the channels of the depthwise part in chunks
// of 64 bytes: their input with its halo lies in shared memory (`tile`); depthwise convolution, scale, shift and
// activation go to shared memory again (`middle`); and this times the chunk's part of the pointwise weight is added up
// in registers, on tensor cores for half and bfloat16. The last step scales, shifts, activates and stores.
//
// The rectangle is as large as the registers for its sums and 64 KiB of shared memory allow: few outputs make it tall.
// What lies outside of the image is not read, so one of the image's width has its halo above and below only.
#pragma once

#include <optional>

#include "cuda/activation_kernels.cuh"
#include "cuda/common.cuh"
#include "cuda/depthwise_rows.cuh"

namespace supernet::cuda {

constexpr int kFusedThreads = 256;
constexpr int kFusedWarps = kFusedThreads / 32;
constexpr int kFusedScratchRow = 20; // floats from pixel to pixel in a warp's scratch
constexpr int kFusedScratch = 16 * kFusedScratchRow;
constexpr int kFusedLoads = 4; // of 16 bytes that a thread has in flight
constexpr int kFusedShared = 64 * 1024; // what a block has on any device

// Multiplications that take as long as an element from memory, for the plan: roughly, from the data sheets of the A100
// and the H100.
constexpr double kFloatWork = 32;
template <typename T>
constexpr double kProductWork = sizeof(T) == 2 ? 256 : kFloatWork;

// Tiles of 16 pixels by 16 outputs that a warp adds up, 8 registers of each thread for one: as many as leave room for
// the products, which take more without tensor cores.
template <typename T>
constexpr int kFusedSums = sizeof(T) == 2 ? 6 : 4;
template <typename T>
constexpr int kFusedChannels = 64 / sizeof(T); // of a chunk
template <typename T>
constexpr int kFusedRow = 80 / sizeof(T); // elements from row to row of a chunk in shared memory: in other banks

struct FusedPlan {
  DepthwiseSize size;
  int inputs; // channels of x, which are expanded to size.channels, or are these
  int outputs, block_outputs; // of all and of a block
  int tile_height, tile_width; // of a block's pixels; the width in whole strips
  int down, across, chunks; // blocks of an image along rows, columns and outputs
  int warps_along; // warps side by side along the pixels; further ones take further outputs
  int weight_at, taps_at, x_at, tile_at, shared_bytes; // places in shared memory; `middle` is at 0
  Activation mid_act, out_act;
  bool x_aligned, expand_aligned, pw_aligned, y_aligned; // what may be accessed 16 bytes at a time

  __host__ __device__ int pixel_tiles() const {
    return (tile_height * tile_width + 15) / 16;
  }
  __host__ __device__ int output_tiles() const {
    return (block_outputs + 15) / 16;
  }
  int64_t blocks() const {
    return size.batch * down * across * chunks;
  }
};

// Elements from pixel to pixel of x in shared memory, before it is expanded: whole tiles, in other banks for each.
template <typename T>
__host__ __device__ constexpr int expand_row(int inputs) {
  return (inputs + 15) / 16 * 16 + Vec<T>::size;
}

// ---- a block's parts ----

// Calls use(i, load(i)) for the block's vectors i < count. kFusedLoads of a thread are under way at once.
template <typename Load, typename Use>
__device__ __forceinline__ void copy_vectors(int count, Load load, Use use) {
#pragma unroll 1 // the registers belong to the sums
  for (int first = threadIdx.x; first < count; first += kFusedLoads * kFusedThreads) {
    Words words[kFusedLoads];
#pragma unroll
    for (int b = 0; b < kFusedLoads; ++b) {
      const int i = first + b * kFusedThreads;
      words[b] = i < count ? load(i) : Words{};
    }
#pragma unroll
    for (int b = 0; b < kFusedLoads; ++b) {
      const int i = first + b * kFusedThreads;
      if (i < count) {
        use(i, words[b]);
      }
    }
  }
}

// The block's sums, [pixels][outputs]. A warp has the tiles of the pixels `along` apart, for every (8 / along)-th tile
// of the outputs.
template <typename T>
struct FusedSums {
  using Tile = WarpTile<T, Major::column>;
  typename Tile::C sums[kFusedSums<T>];

  // visit(sum, tile of pixels, tile of outputs, whether the latter is another than before), for all of the warp's.
  template <typename Visit>
  __device__ __forceinline__ void for_tiles(const FusedPlan& p, Visit visit) {
    const int first = threadIdx.x / 32 % p.warps_along, pixel_tiles = p.pixel_tiles(), output_tiles = p.output_tiles();
    int pixel = first, output = threadIdx.x / 32 / p.warps_along;
#pragma unroll
    for (int j = 0; j < kFusedSums<T>; ++j) {
      if (pixel < pixel_tiles && output < output_tiles) { // the same for the whole warp
        visit(sums[j], pixel, output, pixel == first);
      }
      pixel += p.warps_along;
      if (pixel >= pixel_tiles) {
        pixel = first;
        output += kFusedWarps / p.warps_along;
      }
    }
  }

  __device__ FusedSums() {
#pragma unroll
    for (auto& sum : sums) {
      Tile::fill_zero(sum);
    }
  }

  // += middle [pixels][chunk] · weight [outputs][chunk] transposed
  __device__ __forceinline__ void add(const FusedPlan& p, const T* middle, const T* weight) {
    constexpr int row = kFusedRow<T>;
#pragma unroll
    for (int k = 0; k < kFusedChannels<T>; k += 16) {
      typename Tile::B b = {};
      for_tiles(p, [&](auto& sum, int pixel, int output, bool other) {
        if (other) {
          Tile::load_b(b, weight + output * 16 * row + k, row);
        }
        typename Tile::A a;
        Tile::load_a(a, middle + pixel * 16 * row + k, row);
        Tile::mma(sum, a, b);
      });
    }
  }
};

// Writes a warp's tile to its scratch, and gives visit(row, first column, the row's 8 values from there).
template <typename Tile, typename Visit>
__device__ __forceinline__ void for_rows(const typename Tile::C& sums, float* scratch, Visit visit) {
  Tile::store_accumulators(scratch, kFusedScratchRow, sums);
  __syncwarp();
  const int row = threadIdx.x % 32 / 2, column = threadIdx.x % 2 * 8;
  visit(row, column, scratch + row * kFusedScratchRow + column);
  __syncwarp(); // the scratch may be written again
}

// What a block works on, and where.
template <typename T, int K, int kStride>
struct FusedBlock {
  using Window = ForwardWindow<K, kStride>;
  static constexpr int chunk = kFusedChannels<T>, row = kFusedRow<T>, size = Vec<T>::size;

  const FusedPlan& p;
  T* middle; // [pixels][row]
  T* weight; // [outputs][row]
  float* taps; // [K * K][kTapRow], scaled, and below them the shifts
  T* tile; // [height][width][row], with the halo
  float* scratch; // this warp's, in the place of middle
  int first_output, left, top; // outputs and pixels
  int height, width; // of tile
  int64_t image;

  __device__ FusedBlock(const FusedPlan& p, unsigned char* shared)
      : p(p),
        middle(reinterpret_cast<T*>(shared)),
        weight(reinterpret_cast<T*>(shared + p.weight_at)),
        taps(reinterpret_cast<float*>(shared + p.taps_at)),
        tile(reinterpret_cast<T*>(shared + p.tile_at)),
        scratch(reinterpret_cast<float*>(shared) + threadIdx.x / 32 * kFusedScratch),
        first_output(static_cast<int>(blockIdx.x % p.chunks) * p.block_outputs),
        height(Window::span(p.tile_height)),
        width(Window::span(p.tile_width)) {
    const int64_t spot = blockIdx.x / p.chunks;
    left = static_cast<int>(spot % p.across) * p.tile_width;
    top = static_cast<int>(spot / p.across % p.down) * p.tile_height;
    image = spot / p.across / p.down;
  }

  __device__ void load_taps(const T* dw_weight, const float* scale, const float* shift, int channel) const {
    fill_taps<kFusedThreads, chunk, K * K + 1>(taps, [&](int c, int tap) {
      if (channel + c >= p.size.channels) {
        return 0.f;
      }
      return tap == K * K ? cuda::load(shift + channel + c)
                          : cuda::load(scale + channel + c) *
              static_cast<float>(cuda::load(dw_weight + int64_t(channel + c) * K * K + tap));
    });
  }

  // The chunk's part of the pointwise weight; 0 beyond the last output and channel.
  __device__ void load_projection(const T* pw_weight, int channel) const {
    constexpr int vectors = chunk / size;
    with_whole(p.pw_aligned, [&](auto whole) {
      copy_vectors(
          p.output_tiles() * 16 * vectors,
          [&](int i) {
            const int o = i / vectors, at = channel + i % vectors * size;
            const bool inside = o < p.block_outputs && first_output + o < p.outputs && at < p.size.channels;
            const T* const from = pw_weight + int64_t(first_output + o) * p.size.channels;
            return inside ? load_words<decltype(whole)::value>(from, at, p.size.channels) : Words{};
          },
          [&](int i, const Words& words) {
            shared_vec(weight + i / vectors * row + i % vectors * size) = words.template as<T>();
          });
    });
  }

  // middle = act(taps * tile + shift); a thread computes strips of pixels for 4 channels.
  __device__ __forceinline__ void depthwise() const {
    constexpr int quads = chunk / kQuad, strip = K == 7 && kStride == 2 ? 2 : kStrip; // as the registers allow
    const int quad = threadIdx.x % quads * kQuad, strips = p.tile_width / strip;
#pragma unroll 1
    for (int s = threadIdx.x / quads; s < p.tile_height * strips; s += kFusedThreads / quads) {
      const int r = s / strips, c = s % strips * strip;
      float values[strip][kQuad];
      const Quad shift = load_quad(taps + K * K * kTapRow<chunk> + quad);
#pragma unroll
      for (int j = 0; j < strip; ++j) {
#pragma unroll
        for (int i = 0; i < kQuad; ++i) {
          values[j][i] = shift.v[i];
        }
      }
      const T* const source = tile + (Window::advance(r) * width + Window::advance(c)) * row + quad;
#pragma unroll 1
      for (int k = 0; k < K; ++k) {
        add_row<Window, row, chunk>(values, source + k * width * row, taps + k * K * kTapRow<chunk> + quad);
      }
#pragma unroll
      for (int j = 0; j < strip; ++j) {
#pragma unroll
        for (int i = 0; i < kQuad; ++i) {
          values[j][i] = activate(p.mid_act, values[j][i]);
        }
        store_quad(middle + (r * p.tile_width + c + j) * row + quad, values[j]);
      }
    }
  }

  // y = act(scale · sums + shift), plus `residual` [as y] where that is not null.
  __device__ __forceinline__ void store_outputs(
      FusedSums<T>& sums, const float* scale, const float* shift, const T* residual, T* y) const {
    const DepthwiseSize& s = p.size;
    using Tile = typename FusedSums<T>::Tile;
    sums.for_tiles(p, [&](auto& sum, int pixel_tile, int output_tile, bool) {
      for_rows<Tile>(sum, scratch, [&](int pixel, int column, const float* values) {
        pixel += pixel_tile * 16;
        const int r = pixel / p.tile_width, c = pixel % p.tile_width, output = output_tile * 16 + column;
        if (r >= p.tile_height || top + r >= s.out_height || left + c >= s.out_width) {
          return;
        }
        const int64_t at = ((image * s.out_height + top + r) * s.out_width + left + c) * p.outputs;
        const int end = min(p.outputs, first_output + p.block_outputs);
#pragma unroll
        for (int v = 0; v < 8; v += size) {
          const int o = first_output + output + v;
          if (o < end) {
            Vec<T> out, skip = {};
            if (residual) {
              skip = load_vec(residual + at, o, end, p.y_aligned);
            }
#pragma unroll
            for (int j = 0; j < size; ++j) {
              const int from = min(o + j, end - 1);
              const float in = values[v + j] * cuda::load(scale + from) + cuda::load(shift + from);
              const float z = activate(p.out_act, in);
              out.v[j] = static_cast<T>(z + static_cast<float>(skip.v[j]));
            }
            store_vec(y + at, o, end, p.y_aligned, out);
          }
        }
      });
    });
  }
};

// ---- plans ----

// Source rows (or columns) that the blocks along an axis read, in all: neighbours share K - stride of them.
template <int K, int kStride>
double source_reads(int blocks, int sources) {
  return sources + double(blocks - 1) * (K - kStride);
}

// The tiling that costs least: elements moved, of x with the halo and of the weights as often as a block takes them,
// and multiplications, of the halo, too. With fewer blocks than multiprocessors a part of the device waits. Nothing if
// no tile fits into shared memory.
template <typename T, int K, int kStride>
std::optional<FusedPlan> fused_plan(const DepthwiseSize& s, int outputs, int inputs, bool expand) {
  using Window = ForwardWindow<K, kStride>;
  constexpr int chunk = kFusedChannels<T>, row = kFusedRow<T> * sizeof(T);
  std::optional<FusedPlan> best;
  double least = 0;
  FusedPlan p = {};
  p.size = s;
  p.inputs = inputs;
  p.outputs = outputs;
  const int enough = multiprocessors(), fewest = divide_up(outputs, 512), most_chunks = divide_up(outputs, 16);
  // Few pixels make few blocks: then outputs are divided further, though each block computes the depthwise part anew.
  for (int chunks = fewest; chunks <= most_chunks; chunks += chunks < fewest + 3 ? 1 : chunks) {
    p.block_outputs = divide_up(divide_up(outputs, chunks), 16) * 16;
    p.chunks = divide_up(outputs, p.block_outputs);
    int most = 0; // tiles of pixels
    for (const int along : {8, 4, 2, 1}) {
      const int of_warp = divide_up(p.output_tiles(), kFusedWarps / along);
      if (kFusedSums<T> / of_warp * along > most) {
        most = kFusedSums<T> / of_warp * along;
        p.warps_along = along;
      }
    }
    for (int columns = 1; columns <= s.out_width; columns *= 2) {
      p.tile_width = divide_up(divide_up(s.out_width, columns), kStrip) * kStrip;
      p.across = divide_up(s.out_width, p.tile_width);
      for (int down = 1; down <= s.out_height; ++down) {
        p.tile_height = divide_up(s.out_height, down);
        p.down = divide_up(s.out_height, p.tile_height);
        const int spans[] = {Window::span(p.tile_height), Window::span(p.tile_width)};
        const int x_pixels = std::min(spans[0], s.height) * std::min(spans[1], s.width);
        const int expand_bytes = expand ? expand_row<T>(inputs) * sizeof(T) : 0;
        const int weight = std::max(p.output_tiles() * 16 * row, chunk * expand_bytes);
        p.weight_at = std::max<int>(p.pixel_tiles() * 16 * row, kFusedWarps * kFusedScratch * sizeof(float));
        p.taps_at = p.weight_at + weight;
        p.x_at = p.taps_at + ((K * K + 1) * kTapRow<chunk> + 2 * expand * chunk) * sizeof(float);
        p.tile_at = p.x_at + divide_up(x_pixels, 16) * 16 * expand_bytes;
        p.shared_bytes = p.tile_at + spans[0] * spans[1] * row;
        if (p.pixel_tiles() > most || p.shared_bytes > kFusedShared) {
          continue;
        }
        const double reads = source_reads<K, kStride>(p.down, s.height) * source_reads<K, kStride>(p.across, s.width);
        const double pixels = double(p.down) * p.across * p.pixel_tiles() * 16;
        const double weights = double(s.channels) * (K * K + p.block_outputs + (expand ? inputs : 0));
        const double loads = reads * inputs + p.down * p.across * weights;
        const double stores = double(s.out_height) * s.out_width * outputs;
        const double products = (expand ? reads * inputs : 0) + pixels * p.block_outputs;
        const double work = s.channels * (pixels * K * K / kFloatWork + products / kProductWork<T>);
        const double blocks = double(p.blocks());
        const double cost = (p.chunks * (loads + work) + stores) * std::max<double>(1, enough / blocks);
        if (!best || cost < least) {
          least = cost;
          best = p;
        }
        if (blocks >= enough) {
          break; // more of them only move more
        }
      }
    }
  }
  return best;
}

} // namespace supernet::cuda
