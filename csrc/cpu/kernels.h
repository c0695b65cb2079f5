// What the CPU operators ask of their kernels, whatever the instruction set: plain arguments, no ATen.
//
// The kernels themselves (kernels/) are compiled once per instruction set, by isa/generic.cpp, isa/avx2.cpp and
// isa/avx512.cpp, each of which fills one table of functions. kernels<S>() is the table of the best set that this
// machine and SUPERNET_CPU_CAPABILITY allow. AMX and AVX-512-bf16 use AVX-512's, beside their own block_kernels.h and,
// the latter, passes over rows.
//
// S, the type computed in, is float or double. Images are channels_last: pixel after pixel, each `channels`
// long.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <string_view>

#include "ops/activation.h"

namespace supernet::cpu {

// A depthwise convolution of one image. Transposed (stride > 1 only), it is the gradient with respect to the
// input: `in` is then the output's gradient and `out` the input's. At stride 1 that is an ordinary
// convolution with the taps reversed and padding kernel - 1 - padding.
struct DepthwiseShape {
  int64_t channels;
  int64_t in_height, in_width;
  int64_t out_height, out_width;
  int64_t kernel, stride, padding;
  bool transposed;
};

// Rows `first`, `first + 1`, … of an image.
template <typename S>
struct Band {
  S* data;
  int64_t first;
};

struct Rows {
  int64_t begin, end;
};

// What happens to a depthwise output before it is stored.
template <typename S>
struct DepthwiseEpilogue {
  // Added, then activated: one value per channel, padded to whole vectors. Null: neither.
  const S* bias = nullptr;
  Activation act = Activation::none;
  // Moments of the output about its first pixel, see Moments. Null: not wanted.
  S* moments = nullptr;
  // Rows of the input that memory holds from row 0 of this image on, those of further images included: these
  // are prefetched. 0: the input is in the cache.
  int64_t readable_rows = 0;
  // The output goes to memory rather than to a buffer in the cache.
  bool streams = false;
};

// Sums over a block of pixels, per channel: a shift (a value of the block itself), sum(x - shift) and
// sum((x - shift)^2), each array padded to whole vectors. As the shift is one of the n values summed,
// (mean - shift)^2 <= n var: the variance loses at most n roundings, whatever the mean.
constexpr int64_t kMoments = 3;

// One batch norm applied: z = scale * x + shift, y = act(z).
template <typename S>
struct Affine {
  const S* scale;
  const S* shift;
  Activation act;
};

// Values that may be read behind the operands of matmul_transposed.
constexpr int64_t kSlack = 64;

template <typename S>
struct Kernels {
  int64_t vector; // lanes; "padded" below means rounded up to a multiple of it

  // --- kernels/depthwise_any.h ---

  // Weights [channels, 1, k, k] in the kernels' order, vector by vector: [padded / vector][k * k][vector].
  // Scaled per channel where scale is not null.
  void (*pack_depthwise)(
      const S* weight, const S* scale, int64_t channels, int64_t kernel, bool flip, S* packed);
  // Output rows [begin, end).
  void (*depthwise)(
      const DepthwiseShape&, Band<const S> in, const S* packed, Band<S> out, int64_t begin, int64_t end,
      const DepthwiseEpilogue<S>&);
  // Adds the weight's gradient from output rows [begin, end) of `images` images to sums, in the packed order.
  // More than one image lie behind each other, whole. x_streams, grad_streams: these come from memory, where
  // those of the next rows or images lie behind them, rather than from the cache.
  void (*depthwise_weight_grad)(
      const DepthwiseShape&, Band<const S> x, Band<const S> grad, int64_t images, int64_t begin, int64_t end,
      S* sums, bool x_streams, bool grad_streams);

  // --- kernels/matmul.h ---

  // B [depth, columns] for `matmul`; b(k, j) = b[k * row + j * column] * scale[j]. Holds depth * padded
  // columns.
  void (*pack_matrix)(
      const S* b, int64_t row, int64_t column, int64_t depth, int64_t columns, const S* scale, S* packed);
  // C [rows, columns] = act(A B + bias) + residual, A [rows, depth] with rows `depth` apart; bias (padded)
  // and residual [rows, columns] may be null.
  void (*matmul)(
      const S* a, int64_t rows, int64_t depth, const S* packed, int64_t columns, const S* bias,
      Activation act, const S* residual, S* c);
  // sums [rows, padded columns] += A^T B over `depth` pixels, A [depth, rows], B [depth, columns]. Reads up
  // to kSlack values behind A and B, whatever they are.
  void (*matmul_transposed)(
      const S* a, int64_t rows, const S* b, int64_t columns, int64_t depth, S* sums);
};

// Rows of pixels that are stored as T and computed on as S.
template <typename T, typename S>
struct RowKernels {
  void (*load)(const T* x, int64_t n, S* y);
  void (*store)(const S* x, int64_t n, T* y);
  // Moments of [rows, channels].
  void (*moments)(const T* x, int64_t rows, int64_t channels, S* moments);
  // y = act(scale * x + shift).
  void (*normalise)(const T* x, int64_t rows, int64_t channels, const Affine<S>&, S* y);
  // y = act(scale * x + shift) + residual, which may be null.
  void (*normalise_store)(
      const T* x, int64_t rows, int64_t channels, const Affine<S>&, const T* residual, T* y);
  // Sums per channel of g = grad * act'(z), z = scale * x + shift, and of g * (x - mean): sums is
  // [2][padded].
  void (*reduce_grad)(
      const T* grad, const T* x, int64_t rows, int64_t channels, const Affine<S>&, const S* mean, S* sums);
  // The same, and grad becomes g.
  void (*mask_and_reduce_grad)(
      S* grad, const T* x, int64_t rows, int64_t channels, const Affine<S>&, const S* mean, S* sums);
  // y = a * g + b * x + c, with abc = [3][padded].
  void (*input_grad)(
      const T* grad, const T* x, int64_t rows, int64_t channels, const Affine<S>&, const S* abc, S* y);
  void (*input_grad_store)(
      const T* grad, const T* x, int64_t rows, int64_t channels, const Affine<S>&, const S* abc, T* y);
  void (*input_grad_of_values)(
      const S* grad, const T* x, int64_t rows, int64_t channels, const Affine<S>&, const S* abc, S* y);
  // y = sum_d p[d] xs[d] over n values; where p[d] is 0, xs[d] is not read.
  void (*mix)(const T* const* xs, const S* p, int64_t depth, int64_t n, T* y);
  // grad_x = p grad, 0 where p is; returns <grad, x>.
  S (*mix_grad)(const T* grad, const T* x, S p, int64_t n, T* grad_x);
};

enum class Capability { generic, avx2, avx512, avx512_vnni, avx512_bf16, amx };

// The instruction set in use and its name. SUPERNET_CPU_CAPABILITY (one of Capability), read once,
// may name a lower one than the machine has.
Capability capability();
const char* capability_name();
// For tests: takes a lower set, or the processor's best again, from now on.
void set_capability(std::string_view name);

template <typename S>
const Kernels<S>& kernels();
template <typename T, typename S>
const RowKernels<T, S>& row_kernels();

// The tables that the files define.
struct FloatRowTables {
  RowKernels<float, float> of_float;
  RowKernels<c10::BFloat16, float> of_bfloat16;
};
struct FloatTables {
  Kernels<float> kernels;
  FloatRowTables rows;
};
struct DoubleTables {
  Kernels<double> kernels;
  RowKernels<double, double> rows;
};
namespace generic {
extern const FloatTables float_tables;
extern const DoubleTables double_tables;
} // namespace generic
namespace avx2 {
extern const FloatTables float_tables;
}
namespace avx512 {
extern const FloatTables float_tables;
}
namespace avx512_bf16 {
extern const FloatRowTables row_tables; // all else is AVX-512's
}

} // namespace supernet::cpu
