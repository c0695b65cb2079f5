// What inference in bfloat16 asks of an instruction set that multiplies it: plain arguments, no ATen.
//
// What the depthwise part reads is a block of 16 channels as floats, pixel after pixel, small enough for the cache
// and never rounded. What it makes is rounded once, to pixels of all channels, which the pointwise product reads.
// "Padded" means rounded up to a multiple of kGroup, with zeros; buffers of pixels hold kGroup pixels more, whose
// values do not matter.
#pragma once

#include "kernels.h"

namespace supernet::cpu {

// Memory to be fetched while something else is computed: lines to read and lines to write.
struct Ahead {
  const c10::BFloat16 *next = nullptr, *end = nullptr;
  c10::BFloat16 *next_out = nullptr, *end_out = nullptr;
};

struct BlockKernels {
  static constexpr int64_t kBlock = 16, kGroup = 32;

  // Pixels [pixels, channels] padded; y is aligned to a cache line.
  void (*pad)(const c10::BFloat16* x, int64_t pixels, int64_t channels, c10::BFloat16* y);
  // The first `lanes` of pixels `channels` long as a block, filled up with zeros.
  void (*widen)(const c10::BFloat16* x, int64_t pixels, int64_t channels, int64_t lanes, float* y);
  // A weight [columns, depth], each row scaled, for `expand` and `project`. Holds padded depth * columns, these
  // rounded up to whole blocks.
  void (*pack)(
      const float* weight, int64_t depth, int64_t columns, const float* scale, c10::BFloat16* packed);
  // act(x weight^T + bias) as blocks, y_block apart: `lanes` columns, at most kGroup. x is padded to `depth`.
  void (*expand)(
      const c10::BFloat16* x, int64_t pixels, int64_t depth, const c10::BFloat16* packed, int64_t lanes,
      const float* bias, Activation act, float* y, int64_t y_block);
  // Output rows [begin, end) of a block, activated, into pixels out_pixel apart. Kernels of 3, 5 and 7, padded by
  // half of it, strides of 1 and 2.
  void (*depthwise)(
      const DepthwiseShape&, Band<const float> in, const float* taps, const float* bias, Activation act,
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
