// Device code that dw_separable and inverted_bottleneck share, in their inference form, for channels_last images.
//
// A block computes a rectangle of output pixels in one launch. It takes the channels of the depthwise part in chunks
// of 64 bytes: their input with its halo lies in shared memory (`tile`); depthwise convolution, scale, shift and
// activation go to shared memory again (`middle`); and this times the chunk's part of the pointwise weight is added up
// in registers, on tensor cores for half and bfloat16. The last step scales, shifts, activates and stores. What a chunk
// needs from global memory is copied to shared memory while the depthwise part of the chunk before is computed.
//
// The rectangle is as large as the registers for its sums and block_shared() allow: few outputs make it tall. What lies
// outside of the image is not read, so one of the image's width has its halo above and below only.
#pragma once

#include <optional>

#include "cuda/activation_kernels.cuh"
#include "cuda/common.cuh"
#include "cuda/copies.cuh"
#include "cuda/depthwise_rows.cuh"
#include "cuda/mma.cuh"

namespace supernet::cuda {

constexpr int kFusedThreads = 256;
constexpr int kFusedWarps = kFusedThreads / 32;

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
  int along_bits; // 2 to this power are the warps side by side along the pixels; further ones take further outputs
  int taps_at, vectors_at, raw_at, weight_at, expand_at, x_at, tile_at, shared_bytes; // in shared memory
  Activation mid_act;
  bool aligned; // all that is read, to 16 bytes
  bool y_aligned; // and what is written, to four elements

  __host__ __device__ int pixel_tiles() const {
    return (tile_height * tile_width + 15) / 16;
  }
  __host__ __device__ int output_tiles() const {
    return (block_outputs + 15) / 16;
  }
  __host__ __device__ int warps_along() const {
    return 1 << along_bits;
  }
  __host__ __device__ int warps_across() const {
    return kFusedWarps >> along_bits;
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

// The value, of which the compiler computes nothing ahead, once for all chunks: registers are scarcer than additions.
__device__ __forceinline__ int not_ahead(int value) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// The block's sums, [pixels][outputs]. A warp has the tiles of the pixels `along` apart, for every (8 / along)-th tile
// of the outputs.
template <typename T, typename P>
struct FusedSums {
  using Tile = WarpTile<T, P>;
  typename Tile::C sums[kFusedSums<T>] = {};

  // visit(sum, tile of pixels, tile of outputs, whether the latter is another than before), for all of the warp's.
  template <typename Visit>
  __device__ __forceinline__ void for_tiles(const FusedPlan& p, Visit visit) {
    const int warp = not_ahead(threadIdx.x / 32), first = warp & (p.warps_along() - 1);
    const int pixel_tiles = p.pixel_tiles(), output_tiles = p.output_tiles();
    int pixel = first, output = warp >> p.along_bits;
#pragma unroll
    for (int j = 0; j < kFusedSums<T>; ++j) {
      if (pixel < pixel_tiles && output < output_tiles) { // the same for the whole warp
        visit(sums[j], pixel, output, pixel == first);
      }
      pixel += p.warps_along();
      if (pixel >= pixel_tiles) {
        pixel = first;
        output += p.warps_across();
      }
    }
  }

  // += middle [pixels][chunk] · weight [outputs, by their places][chunk] transposed
  __device__ __forceinline__ void add(const FusedPlan& p, const T* middle, const T* weight) {
    constexpr int row = kFusedRow<T>, steps = kFusedChannels<T> / 16;
    typename Tile::B b[steps] = {};
    for_tiles(p, [&](auto& sum, int pixel, int output, bool other) {
      if (other) {
#pragma unroll
        for (int k = 0; k < steps; ++k) {
          Tile::load_b(b[k], weight + output * 16 * row + k * 16, row);
        }
      }
#pragma unroll
      for (int k = 0; k < steps; ++k) {
        typename Tile::A a;
        Tile::load_a(a, middle + pixel * 16 * row + k * 16, row);
        Tile::mma(sum, a, b[k]);
      }
    });
  }
};

// The tile in shared memory: rows of pixels of kFusedRow elements. At stride 2 the strips of neighbouring threads begin
// eight pixels apart, a multiple of all banks: half of these more lie between every eight.
template <typename T, int K, int kStride>
struct FusedTile {
  using Window = ForwardWindow<K, kStride>;
  static constexpr int strip = K == 7 && kStride == 2 ? 2 : kStrip; // outputs of a thread, as the registers allow
  static constexpr int gap = Window::advance(strip) == 8 ? 64 / sizeof(T) : 0;

  __host__ __device__ static constexpr int at(int column) {
    return column * kFusedRow<T> + column / 8 * gap;
  }
  __host__ __device__ static int columns(const FusedPlan& p) {
    return Window::span(min(p.tile_width, p.size.out_width));
  }
  // Elements of all. Where the image ends before a strip does, the strip reads on, but for the last row into the next;
  // nothing is stored of that.
  __host__ __device__ static int elements(const FusedPlan& p) {
    return (Window::span(p.tile_height) - 1) * at(columns(p)) + at(Window::span(p.tile_width));
  }
};

// What a block works on, and where. P is what is multiplied.
template <typename T, int K, int kStride, typename P>
struct FusedBlock {
  using Window = ForwardWindow<K, kStride>;
  using Tile = FusedTile<T, K, kStride>;
  static constexpr int chunk = kFusedChannels<T>, row = kFusedRow<T>, size = Vec<T>::size;

  const FusedPlan& p;
  T* middle; // [pixels][row]
  float* taps; // [K * K][kTapRow], scaled, and below them the shifts
  float* vectors; // [chunk] each: scales and shifts of the depthwise part, then of what is before it
  T* raw; // [chunk][K * K], the taps as they come
  T* weights; // [outputs, by their places][row], twice
  T* tiles; // [height][Tile::at(width)], with the halo; twice where copied
  int first_output, left, top; // outputs and pixels
  int height, width; // of a tile
  int64_t image;

  __device__ FusedBlock(const FusedPlan& p, unsigned char* shared)
      : p(p),
        middle(reinterpret_cast<T*>(shared)),
        taps(reinterpret_cast<float*>(shared + p.taps_at)),
        vectors(reinterpret_cast<float*>(shared + p.vectors_at)),
        raw(reinterpret_cast<T*>(shared + p.raw_at)),
        weights(reinterpret_cast<T*>(shared + p.weight_at)),
        tiles(reinterpret_cast<T*>(shared + p.tile_at)),
        first_output(static_cast<int>(blockIdx.x % p.chunks) * p.block_outputs),
        height(Window::span(p.tile_height)),
        width(Tile::columns(p)) {
    const int64_t spot = blockIdx.x / p.chunks;
    left = static_cast<int>(spot % p.across) * p.tile_width;
    top = static_cast<int>(spot / p.across % p.down) * p.tile_height;
    image = spot / p.across / p.down;
  }

  __device__ T* weight(int channel) const {
    return weights + channel / chunk % 2 * p.output_tiles() * 16 * row;
  }
  __device__ T* tile(int channel) const {
    return tiles + channel / chunk % 2 * Tile::elements(p);
  }
  __device__ int in_tile(int r, int c) const {
    return r * Tile::at(width) + Tile::at(c);
  }

  // The chunk's scales, shifts, taps and part of the pointwise weight; 0 beyond the last output and channel.
  template <bool kWhole>
  __device__ void fetch_weights(
      const T* dw_weight, const float* scale, const float* shift, const T* pw_weight, int channel) const {
    const int channels = p.size.channels;
    fetch_floats<kWhole>(vectors, scale, shift, channel);
    const T* const from = dw_weight + int64_t(channel) * K * K;
#pragma unroll 1 // here as below: the registers belong to the sums
    for (int i = not_ahead(threadIdx.x) * size; i < chunk * K * K; i += kFusedThreads * size) {
      fetch_vec<kWhole>(raw + i, from, i, (channels - channel) * K * K);
    }
    constexpr int in_row = chunk / size;
#pragma unroll 1
    for (int i = not_ahead(threadIdx.x); i < p.output_tiles() * 16 * in_row; i += kFusedThreads) {
      const int o = i / in_row, v = i % in_row * size;
      const bool inside = o < p.block_outputs && first_output + o < p.outputs;
      const T* const of_output = pw_weight + int64_t(first_output + o) * channels;
      fetch_vec<kWhole>(weight(channel) + WarpTileLayout::place(o) * row + v, of_output, channel + v, inside ? channels : 0);
    }
  }

  // [2][chunk]
  template <bool kWhole>
  __device__ void fetch_floats(float* to, const float* first, const float* second, int channel) const {
    const int i = not_ahead(threadIdx.x) * kQuad;
    if (i < 2 * chunk) {
      fetch_vec<kWhole>(to + i, i < chunk ? first : second, channel + i % chunk, p.size.channels);
    }
  }

  // The taps as depthwise() takes them.
  __device__ void turn_taps() const {
    fill_taps<kFusedThreads, chunk, K * K + 1>(taps, [&](int c, int tap) {
      return tap == K * K ? load_shared(vectors + chunk + c)
                          : load_shared(vectors + c) * static_cast<float>(load_shared(raw + c * K * K + tap));
    });
  }

  // For every chunk: fetch(channel, whether by copies) what it needs, make(channel) of that what stays, with a barrier
  // behind it the depthwise part of tile(channel), and, behind another, the products of this.
  template <typename Fetch, typename Make, typename TileOf>
  __device__ __forceinline__ void for_chunks(FusedSums<T, P>& sums, Fetch fetch, Make make, TileOf tile) const {
#pragma unroll 1
    for (int channel = -chunk;; channel += chunk) { // that of the depthwise part: behind the fetched, before the products
      if (channel > 0) {
        sums.add(p, middle, weight(channel - chunk));
      }
      if (channel >= p.size.channels) {
        return;
      }
      if (channel >= 0) {
        turn_taps();
        make(channel);
      }
      __syncthreads(); // what was made is there; what it was made of, and middle, are free
      if (channel + chunk < p.size.channels) {
        with_whole(p.aligned, [&](auto whole) { fetch(channel + chunk, whole); });
      }
      if (channel >= 0) {
        depthwise(tile(channel));
      }
      wait_for_copies();
      __syncthreads(); // middle and the next chunk's are there; what was made is free
    }
  }

  // middle = act(taps * tile + shift); a thread computes strips of pixels for 4 channels.
  __device__ __forceinline__ void depthwise(const T* tile) const {
    constexpr int quads = chunk / kQuad, strip = Tile::strip;
    const int thread = threadIdx.x, quad = thread % quads * kQuad, strips = p.tile_width / strip;
#pragma unroll 1
    for (int s = thread / quads; s < p.tile_height * strips; s += kFusedThreads / quads) {
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
      const T* const source = tile + in_tile(Window::advance(r), Window::advance(c)) + quad;
#pragma unroll 1
      for (int k = 0; k < K; ++k) {
        add_row<Window, row, chunk, Tile::gap>(
            values, source + k * Tile::at(width), taps + k * K * kTapRow<chunk> + quad);
      }
#pragma unroll
      for (int j = 0; j < strip; ++j) {
        activate_all(p.mid_act, values[j]);
        store_quad(middle + (r * p.tile_width + c + j) * row + quad, values[j]);
      }
    }
  }

  // y = act(scale · sums + shift), plus `residual` [as y] where that is not null.
  __device__ __forceinline__ void store_outputs(
      FusedSums<T, P>& sums, const float* scale, const float* shift, Activation act, const T* residual, T* y) const {
    const DepthwiseSize& s = p.size;
    const int end = min(p.outputs, first_output + p.block_outputs);
    sums.for_tiles(p, [&](auto& sum, int pixel_tile, int output_tile, bool) {
      const int o = first_output + output_tile * 16 + WarpTileLayout::first_column();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int pixel = pixel_tile * 16 + WarpTileLayout::first_row() + 8 * i;
        const int r = pixel / p.tile_width, c = pixel % p.tile_width;
        if (r < p.tile_height && top + r < s.out_height && left + c < s.out_width && o < end) {
          const int64_t at = ((image * s.out_height + top + r) * s.out_width + left + c) * p.outputs;
          Quad skip = {};
          if (residual) {
            skip = unpacked(load_some<kQuad>(residual + at, o, end, p.y_aligned));
          }
          float out[kQuad];
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            const int from = min(o + j, end - 1);
            out[j] = sum.v[i][j] * cuda::load(scale + from) + cuda::load(shift + from);
          }
          activate_all(act, out);
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            out[j] += skip.v[j];
          }
          store_vec(y + at, o, end, p.y_aligned, packed<T>(out));
        }
      }
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
  using Tile = FusedTile<T, K, kStride>;
  constexpr int chunk = kFusedChannels<T>, row = kFusedRow<T> * sizeof(T);
  std::optional<FusedPlan> best;
  double least = 0;
  FusedPlan p = {};
  p.size = s;
  p.inputs = inputs;
  p.outputs = outputs;
  const int enough = multiprocessors(), most_shared = block_shared(), fewest = divide_up(outputs, 512), most_chunks = divide_up(outputs, 16);
  // Few pixels make few blocks: then outputs are divided further, though each block computes the depthwise part anew.
  for (int chunks = fewest; chunks <= most_chunks; chunks += chunks < fewest + 3 ? 1 : chunks) {
    p.block_outputs = divide_up(divide_up(outputs, chunks), 16) * 16;
    p.chunks = divide_up(outputs, p.block_outputs);
    int most = 0; // tiles of pixels
    for (const int bits : {3, 2, 1, 0}) {
      const int of_warp = divide_up(p.output_tiles(), kFusedWarps >> bits), tiles = kFusedSums<T> / of_warp << bits;
      if (tiles > most) {
        most = tiles;
        p.along_bits = bits;
      }
    }
    for (int columns = 1; columns <= s.out_width; columns *= 2) {
      p.tile_width = divide_up(divide_up(s.out_width, columns), kStrip) * kStrip;
      p.across = divide_up(s.out_width, p.tile_width);
      for (int down = 1; down <= s.out_height; ++down) {
        p.tile_height = divide_up(s.out_height, down);
        p.down = divide_up(s.out_height, p.tile_height);
        const int spans[] = {Window::span(p.tile_height), Tile::columns(p)};
        const int x_pixels = std::min(spans[0], s.height) * std::min(spans[1], s.width);
        const int expand_bytes = expand ? expand_row<T>(inputs) * sizeof(T) : 0;
        p.taps_at = p.pixel_tiles() * 16 * row;
        p.vectors_at = p.taps_at + (K * K + 1) * kTapRow<chunk> * sizeof(float);
        p.raw_at = p.vectors_at + (expand ? 4 : 2) * chunk * sizeof(float);
        p.weight_at = p.raw_at + chunk * K * K * sizeof(T);
        p.expand_at = p.weight_at + 2 * p.output_tiles() * 16 * row;
        p.x_at = p.expand_at + chunk * expand_bytes;
        p.tile_at = p.x_at + divide_up(x_pixels, 16) * 16 * expand_bytes;
        p.shared_bytes = p.tile_at + (expand ? 1 : 2) * Tile::elements(p) * sizeof(T);
        if (p.pixel_tiles() > most || p.shared_bytes > most_shared) {
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
