// What inference in bfloat16 asks of an instruction set that multiplies it: plain arguments, no ATen.
//
// The depthwise part reads blocks: what some output rows need of 16 channels of an image, small enough for
// the cache. What it makes is rounded to pixels of all channels, which the pointwise product reads. How a
// block holds its values is the instruction set's own matter: blocks_float.h, blocks_pairs.h.
//
// Buffers of pixels and of blocks hold kGroup pixels more, whose values do not matter.
#pragma once

#include "cpu/kernels.h"

namespace supernet::cpu {

// Memory to be fetched while something else is computed: lines to read and lines to write.
struct Ahead {
  const c10::BFloat16 *next = nullptr, *end = nullptr;
  c10::BFloat16 *next_out = nullptr, *end_out = nullptr;
};

struct BlockKernels {
  static constexpr int64_t kBlock = 16, kGroup = 32;
  // Of a pixel in a block, however it is held.
  static constexpr int64_t kPixelBytes = 64;

  // Pixels are padded with zeros to a multiple of it for products.
  int64_t depth_step;
  // Of a block that stays in the L1 cache.
  int64_t cached_bytes;

  // Pixels [pixels, channels] as [pixels, depth].
  void (*pad)(const c10::BFloat16* x, int64_t pixels, int64_t channels, int64_t depth, c10::BFloat16* y);
  // A weight [columns, in], each row scaled, for `expand` and `project` of pixels [pixels, depth]. Holds
  // depth * columns, these rounded up to whole blocks.
  void (*pack)(
      const float* weight, int64_t in, int64_t depth, int64_t columns, const float* scale, c10::BFloat16* packed);
  // Taps as Kernels::pack_depthwise packs them, for so many blocks, each of so many bytes.
  int64_t (*taps_bytes)(int64_t kernel);
  void (*pack_taps)(const float* taps, int64_t blocks, int64_t kernel, void* packed);

  // What output rows [begin, end) of an image need: which of its rows, and the size of a block.
  Rows (*rows_read)(const DepthwiseShape&, int64_t begin, int64_t end);
  int64_t (*block_bytes)(const DepthwiseShape&, int64_t begin, int64_t end);
  // The first `lanes` channels of an image, filled up with zeros.
  void (*widen)(
      const DepthwiseShape&, const c10::BFloat16* image, int64_t begin, int64_t end, int64_t lanes, void* block);
  // act(x weight^T + bias) of images behind each other, all rows if more than one: `lanes` columns, at most
  // kGroup. x is padded to `depth`. Blocks of the images lie behind each other, those of the second kBlock
  // columns block_stride apart.
  void (*expand)(
      const DepthwiseShape&, Band<const c10::BFloat16> x, int64_t images, int64_t begin, int64_t end, int64_t depth,
      const c10::BFloat16* packed, int64_t lanes, const float* bias, Activation act, void* blocks,
      int64_t block_stride);
  // Output rows [begin, end), those that the block was made for, activated, into pixels out_pixel apart.
  // Kernels of 3, 5 and 7, padded by half of it, strides of 1 and 2.
  void (*depthwise)(
      const DepthwiseShape&, const void* block, const void* taps, const float* bias, Activation act,
      Band<c10::BFloat16> out, int64_t out_pixel, int64_t begin, int64_t end, Ahead&);
  // y = act(x weight^T + bias) + residual, which may be null. x is padded to `depth`; y and residual are
  // [pixels, columns].
  void (*project)(
      const c10::BFloat16* x, int64_t pixels, int64_t depth, const c10::BFloat16* packed, int64_t columns,
      const float* bias, Activation act, const c10::BFloat16* residual, c10::BFloat16* y);
};

// Null where the instruction set in use has none.
const BlockKernels* block_kernels();

namespace avx512_bf16 {
extern const BlockKernels block_kernels;
}
namespace amx {
extern const BlockKernels block_kernels;
}

} // namespace supernet::cpu
