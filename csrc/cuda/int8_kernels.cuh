// Device code of the int8 blocks for channels_last images (ops/int8_blocks.h is the contract): one launch.
//
// A block computes a rectangle of output pixels. 32 channels at a time, what the depthwise part reads lies in shared
// memory channel by channel (`tile`), so that four neighbouring columns are a word and one instruction multiplies them
// by four taps: x itself, or what the expansion makes of the block's pixels of x on tensor cores. The depthwise part's
// output of all channels lies there too (`middle`), from which the projection is computed on tensor cores.
//
// Channels are multiples of 4 everywhere; weights of pointwise convolutions have rows of whole steps of 32, zeros behind
// the last channel, and depthwise weights rows of whole words.
#pragma once

#include <optional>

#include "cuda/depthwise_plan.cuh"
#include "cuda/int8_arithmetic.cuh"

namespace supernet::cuda {

constexpr int kInt8Threads = 256;
constexpr int kInt8Warps = kInt8Threads / 32;
constexpr int kInt8Chunk = 32; // channels that the depthwise part takes at a time
constexpr int kInt8Shared = 64 * 1024; // bytes that a block has on any device
constexpr int kInt8Rows = 4; // tiles of 16 pixels that a warp multiplies by the same weights

struct Int8Plan {
  DepthwiseSize size;
  int inputs, outputs; // channels of x before the expansion, or 0; of y
  int tile_height, tile_width; // output pixels of a block; the width in whole words
  int down, across; // blocks of an image
  int height, width; // of tile, in rows and words
  int plane; // words from channel to channel of tile
  int middle_row, x_row; // words from pixel to pixel of middle and of x
  int tile_at, x_at, shared_bytes; // places in shared memory; `middle` is at 0
  uint32_t flip, fill; // of x; what is outside of the image, four times

  __host__ __device__ int pixels() const {
    return tile_height * tile_width;
  }
  int64_t blocks() const {
    return size.batch * down * across;
  }
};

struct Int8Pointers {
  const uint8_t* x;
  Int8Weights expand, dw, pw;
  bool residual;
  int x_zero;
  float x_factor, pw_factor;
  Int8Rounding sum;
  uint8_t* y;
};

// Words of whole steps of the tensor cores; rows then lie an odd multiple of 16 bytes apart, in other banks.
__host__ __device__ constexpr int int8_row(int channels) {
  return (channels + 31) / 32 * 8 + 4;
}

__device__ __forceinline__ uint32_t load_word(const uint8_t* p) {
  return cuda::load(reinterpret_cast<const uint32_t*>(p));
}

// What a block works on, and where.
template <int K, int kStride>
struct Int8Block {
  using Window = ForwardWindow<K, kStride>;
  static constexpr int quads = (K + 3) / 4; // words of a row of taps

  const Int8Pointers& in;
  const Int8Plan& p;
  uint32_t *middle, *tile, *x;
  int64_t image;
  int top, left; // of the output

  __device__ Int8Block(const Int8Pointers& in, const Int8Plan& p, unsigned char* shared)
      : in(in),
        p(p),
        middle(reinterpret_cast<uint32_t*>(shared)),
        tile(reinterpret_cast<uint32_t*>(shared + p.tile_at)),
        x(reinterpret_cast<uint32_t*>(shared + p.x_at)),
        image(blockIdx.x / (p.across * p.down)),
        top(static_cast<int>(blockIdx.x / p.across % p.down) * p.tile_height),
        left(static_cast<int>(blockIdx.x % p.across) * p.tile_width) {}

  // The pixel of x under a row and a column of tile, or null where that is outside of the image.
  __device__ const uint8_t* pixel(int row, int column, int channels) const {
    const int r = Window::source(top) + row, c = Window::source(left) + column;
    const DepthwiseSize& s = p.size;
    return 0 <= r && r < s.height && 0 <= c && c < s.width
        ? in.x + ((image * s.height + r) * s.width + c) * channels
        : nullptr;
  }

  // Pixels of x for the expansion, with zeros up to whole steps.
  __device__ void load_x() const {
    const int words = int8_row(p.inputs) - 4;
    for (int i = threadIdx.x; i < p.height * p.width * 4 * words; i += kInt8Threads) {
      const int at = i / words, word = i % words;
      const auto* from = pixel(at / (4 * p.width), at % (4 * p.width), p.inputs);
      store_shared(x + at * p.x_row + word, from && word < p.inputs / 4 ? load_word(from + 4 * word) ^ p.flip : 0u);
    }
  }

  // The chunk's channels of x.
  __device__ void load_tile(int channel) const {
    constexpr int groups = kInt8Chunk / 4;
    for (int i = threadIdx.x; i < p.height * p.width * groups; i += kInt8Threads) {
      const int group = i % groups, at = i / groups, first = channel + 4 * group;
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const auto* from = pixel(at / p.width, at % p.width * 4 + j, p.size.channels);
        words[j] = from && first < p.size.channels ? load_word(from + first) ^ p.flip : p.fill;
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) { // of four pixels' channels, four channels' pixels
        uint32_t column = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          column |= (words[j] >> 8 * c & 0xff) << 8 * j;
        }
        store_shared(tile + (4 * group + c) * p.plane + at, column);
      }
    }
  }

  // rows [16 pixels of a][outputs 8 n to 8 n + 7]: calls visit(pixel, output, sum) for the lane's four sums of each tile
  // of 16 rows from `first` on, at most kInt8Rows, below `tiles`.
  template <typename Visit>
  __device__ __forceinline__ static void multiply(
      const uint32_t* a, int a_row, int steps, const Int8Weights& w, int outputs, int first, int tiles, int output,
      Visit visit) {
    const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    int sums[kInt8Rows][4] = {};
    const int column = min(output + group, outputs - 1); // those beyond are not visited
    const uint32_t* const b_at = w.weight + int64_t(column) * steps * 8 + place;
#pragma unroll 1
    for (int k = 0; k < steps * 8; k += 8) {
      const uint32_t b[2] = {cuda::load(b_at + k), cuda::load(b_at + k + 4)};
#pragma unroll
      for (int j = 0; j < kInt8Rows; ++j) {
        if (first + j < tiles) { // the same for the whole warp
          const uint32_t* const upper = a + ((first + j) * 16 + group) * a_row + k + place;
          const uint32_t* const lower = upper + 8 * a_row;
          const uint32_t words[4] = {*counted(upper), *counted(lower), *counted(upper + 4), *counted(lower + 4)};
          multiply_tile(sums[j], words, b);
        }
      }
    }
    const int outer = output + 2 * place;
    if (outer < outputs) { // outputs are even
#pragma unroll
      for (int j = 0; j < kInt8Rows; ++j) {
        if (first + j < tiles) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            visit((first + j) * 16 + group + 8 * half, outer, &sums[j][2 * half]);
          }
        }
      }
    }
  }

  // Calls multiply for all tiles of the rows and the outputs [begin, end), shared out among the warps.
  template <typename Visit>
  __device__ __forceinline__ static void multiply_all(
      const uint32_t* a, int a_row, int rows, const Int8Weights& w, int begin, int end, Visit visit) {
    const int tiles = (rows + 15) / 16, groups = (tiles + kInt8Rows - 1) / kInt8Rows, columns = (end - begin + 7) / 8;
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < groups * columns; i += kInt8Warps) {
      multiply(
          a, a_row, (a_row - 4) / 8, w, end, i % groups * kInt8Rows, tiles, begin + i / groups * 8,
          [&](int row, int output, const int* sums) {
            if (row < rows) {
              visit(row, output, w.real(sums[0] + w.start(output), output),
                    w.real(sums[1] + w.start(output + 1), output + 1));
            }
          });
    }
  }

  // The chunk's expanded channels.
  __device__ void expand(int channel) const {
    auto* const bytes = reinterpret_cast<uint8_t*>(tile);
    multiply_all(
        x, p.x_row, p.height * p.width * 4, in.expand, channel, min(channel + kInt8Chunk, p.size.channels),
        [&](int at, int output, float first, float second) {
          const bool inside = pixel(at / (4 * p.width), at % (4 * p.width), p.inputs);
          auto* const to = bytes + int64_t(output - channel) * 4 * p.plane + at;
          store_shared(to, static_cast<uint8_t>(inside ? in.expand.to(first) : p.fill));
          store_shared(to + 4 * p.plane, static_cast<uint8_t>(inside ? in.expand.to(second) : p.fill));
        });
  }

  // Depthwise from tile to middle: a thread computes four columns of four channels.
  __device__ void depthwise(int channel) const {
    constexpr int groups = kInt8Chunk / 4, words = (3 * kStride + 4 * (quads - 1)) / 4 + 2;
    const int strips = p.tile_width / 4;
#pragma unroll 1
    for (int i = threadIdx.x; i < p.tile_height * strips * groups; i += kInt8Threads) {
      const int group = i / (p.tile_height * strips), at = i % (p.tile_height * strips);
      const int row = at / strips, strip = at % strips, first = channel + 4 * group;
      uint32_t out[4] = {}; // of a pixel the four channels
      if (first < p.size.channels) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          int sums[4];
#pragma unroll
          for (int& sum : sums) {
            sum = in.dw.start(first + c);
          }
          const uint32_t* from = tile + (4 * group + c) * p.plane + row * kStride * p.width + strip * kStride;
          const uint32_t* taps = in.dw.weight + int64_t(first + c) * K * quads;
#pragma unroll
          for (int i = 0; i < K; ++i, from += p.width) {
            uint32_t line[words];
#pragma unroll
            for (int w = 0; w < words; ++w) {
              line[w] = *counted(from + w);
            }
#pragma unroll
            for (int quad = 0; quad < quads; ++quad) {
              const uint32_t tap = cuda::load(taps + i * quads + quad);
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                const int byte = j * kStride + 4 * quad; // four bytes from there on
                const uint64_t both = uint64_t(line[byte / 4 + 1]) << 32 | line[byte / 4];
                sums[j] = dot(static_cast<uint32_t>(both >> byte % 4 * 8), tap, sums[j]);
              }
            }
          }
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            out[j] |= in.dw.to(in.dw.real(sums[j], first + c)) << 8 * c;
          }
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        store_shared(middle + (row * p.tile_width + 4 * strip + j) * p.middle_row + first / 4, out[j]);
      }
    }
  }

  __device__ void project() const {
    multiply_all(
        middle, p.middle_row, p.pixels(), in.pw, 0, p.outputs,
        [&](int pixel, int output, float first, float second) {
          const int r = top + pixel / p.tile_width, c = left + pixel % p.tile_width;
          const DepthwiseSize& s = p.size;
          if (r >= s.out_height || c >= s.out_width) {
            return;
          }
          const int64_t at = ((image * s.out_height + r) * s.out_width + c) * p.outputs + output;
          uint32_t values[2];
          if (in.residual) {
            const auto skip = cuda::load(reinterpret_cast<const uint16_t*>(in.x + at)) ^ (p.flip & 0xffff);
            const float reals[] = {first, second};
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const auto own = in.pw.to.clamped(reals[j]) * in.pw_factor;
              const auto other = static_cast<float>(static_cast<int>(skip >> 8 * j & 0xff) - in.x_zero) * in.x_factor;
              values[j] = in.sum(own + other);
            }
          } else {
            values[0] = in.pw.to(first);
            values[1] = in.pw.to(second);
          }
          store(reinterpret_cast<uint16_t*>(in.y + at), static_cast<uint16_t>(values[0] | values[1] << 8));
        });
  }
};

template <int K, int kStride, bool kExpand>
__global__ void __launch_bounds__(kInt8Threads) int8_block_kernel(Int8Pointers in, Int8Plan p) {
  SUPERNET_DYNAMIC_SHARED(unsigned char, shared);
  const Int8Block<K, kStride> b(in, p, shared);
  if constexpr (kExpand) {
    b.load_x();
    __syncthreads();
  }
  for (int channel = 0; channel < p.size.channels; channel += kInt8Chunk) {
    if constexpr (kExpand) {
      b.expand(channel);
    } else {
      b.load_tile(channel);
    }
    __syncthreads();
    b.depthwise(channel);
    __syncthreads(); // tile may be written again; in the end, middle is whole
  }
  b.project();
}

// ---- plans ----

// The tiling that costs least: pixels of x with the halo, and products in whole tiles. With fewer blocks than
// multiprocessors a part of the device waits. Nothing if no tile fits into shared memory.
template <int K, int kStride>
std::optional<Int8Plan> int8_plan(const DepthwiseSize& s, int inputs, int outputs) {
  using Window = ForwardWindow<K, kStride>;
  constexpr int quads = (K + 3) / 4;
  std::optional<Int8Plan> best;
  double least = 0;
  Int8Plan p = {};
  p.size = s;
  p.inputs = inputs;
  p.outputs = outputs;
  p.middle_row = int8_row(s.channels);
  p.x_row = int8_row(inputs);
  const int enough = multiprocessors();
  for (int columns = 1; columns <= s.out_width; columns *= 2) {
    p.tile_width = divide_up(divide_up(s.out_width, columns), 4) * 4;
    p.across = divide_up(s.out_width, p.tile_width);
    // The last strip reads whole words.
    p.width = (p.tile_width - 4) / 4 * kStride + (3 * kStride + 4 * (quads - 1)) / 4 + 2;
    for (int down = 1; down <= s.out_height; ++down) {
      p.tile_height = divide_up(s.out_height, down);
      p.down = divide_up(s.out_height, p.tile_height);
      p.height = Window::span(p.tile_height);
      p.plane = p.height * p.width | 1; // other banks for each channel
      const int padded = divide_up(p.pixels(), 16) * 16, seen = divide_up(p.height * p.width * 4, 16) * 16;
      p.tile_at = padded * p.middle_row * 4;
      p.x_at = divide_up(p.tile_at + kInt8Chunk * p.plane * 4, 16) * 16;
      p.shared_bytes = p.x_at + (inputs ? seen * p.x_row * 4 : 0);
      if (p.shared_bytes > kInt8Shared) {
        continue;
      }
      const double work = seen * (inputs + 16.0) + padded * (outputs + 16.0 * K);
      const double blocks = static_cast<double>(p.blocks());
      const double cost = p.down * p.across * work * std::max(1.0, enough / blocks);
      if (!best || cost < least) {
        least = cost;
        best = p;
      }
    }
  }
  return best;
}

inline std::optional<Int8Plan> int8_plan(const DepthwiseSize& s, int inputs, int outputs) {
  return with_window(s, [&](auto k, auto stride) { return int8_plan<k(), stride()>(s, inputs, outputs); });
}

inline void int8_block(const Int8Plan& p, const Int8Pointers& in, Stream stream) {
  with_window(p.size, [&](auto k, auto stride) {
    const auto kernel =
        p.inputs ? &int8_block_kernel<k(), stride(), true> : &int8_block_kernel<k(), stride(), false>;
    launch(kernel, static_cast<unsigned>(p.blocks()), kInt8Threads, p.shared_bytes, stream, in, p);
  });
}

} // namespace supernet::cuda
