// What inference on 8-bit values (ops/int8_blocks.h) asks of its kernels, whatever the instruction set: plain
// arguments, no ATen.
//
// All values are unsigned here: what is int8 in a tensor has its highest bit turned (`flip` is 0x80, else 0) as it is
// read and as it is written, and zero points and tables are 128 up. Sums are of quads: four values, each times an int8,
// added to 32 bits at once. A pixel's channels are so taken, four by four, by products, and four neighbouring columns of
// a channel by depthwise convolutions.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace supernet::cpu {

// From reals to values: clamp(round(real) + zero, 0, 255), to be written with some bits turned.
struct Rounding {
  float high; // 255 - zero
  int32_t zero;
  uint8_t flip;
};

// From sums to values: the reals are sum * scale[channel].
struct Requantisation {
  const int32_t* bias; // of the sums, to begin with
  const float* scale;
  Rounding to;
};

// x is added to values q less their zero point: q q_factor + (x - x_zero) x_factor, rounded.
struct Addition {
  const uint8_t* x;
  uint8_t flip;
  int32_t x_zero;
  float x_factor, q_factor;
  Rounding to;
};

struct Int8Kernels {
  // Channels that a depthwise convolution takes at once; columns of a packed matrix that lie together.
  static constexpr int64_t kBlock = 16, kPanel = 32;

  // Pixels are padded to a multiple of it, a multiple of 4, for products.
  int64_t depth_step;

  // Pixels [pixels, channels] as [pixels, depth]; what is behind the channels has any value.
  void (*pad)(const uint8_t* x, int64_t pixels, int64_t channels, int64_t depth, uint8_t flip, uint8_t* y);
  // A weight [columns, inputs] as panels [columns / kPanel][depth / 4][kPanel][4], the last one of kBlock or kPanel
  // columns, with zeros behind the columns and the inputs; and the sums of its rows, to whole panels.
  void (*pack)(
      const int8_t* weight, int64_t inputs, int64_t depth, int64_t columns, int8_t* packed, int32_t* sums);
  // y [pixels, columns], its pixels y_pixel apart, of x [pixels, depth] and a matrix that pack made. x may be read up to the next 32
  // pixels. `add` may be null; its x has pixels of y_pixel.
  void (*multiply)(
      const uint8_t* x, int64_t pixels, int64_t depth, const int8_t* packed, int64_t columns, const Requantisation&,
      const Addition* add, uint8_t* y, int64_t y_pixel);
  // Of one row of an image, whose pixels are `pixel` apart, the first `lanes` channels of at most kBlock as quads
  // [columns][kBlock][4]: column c has pixels c - padding to c - padding + 3, `fill` where these are outside.
  void (*quads)(
      const uint8_t* row, int64_t width, int64_t pixel, int64_t lanes, uint8_t flip, int64_t padding, uint8_t fill,
      int64_t columns, int32_t* out);
  // One row of the output, kBlock channels of pixels y_pixel apart, from `kernel` rows of quads. Taps are
  // [kernel][quads of a row of taps][kBlock][4], 0 behind the last. Reads kTile columns behind those needed.
  void (*depthwise)(
      const int32_t* const* rows, int64_t kernel, int64_t stride, const uint32_t* taps, const Requantisation&,
      int64_t width, uint8_t* y, int64_t y_pixel);
  static constexpr int64_t kTile = 8;
  // values[i] = table[values[i]]
  void (*look_up)(const uint8_t* table, int64_t n, uint8_t* values);
};

const Int8Kernels& int8_kernels();

namespace generic {
extern const Int8Kernels int8_kernels;
}
namespace avx2 {
extern const Int8Kernels int8_kernels;
}
namespace avx512 {
extern const Int8Kernels int8_kernels;
}
namespace avx512_vnni {
extern const Int8Kernels int8_kernels;
}
namespace amx {
extern const Int8Kernels int8_kernels;
}

} // namespace supernet::cpu
