// Checks that every operator shares: what was expected and what came, each written once.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace supernet {

// Of windows: beyond any use, and products with sizes stay far from overflow.
constexpr int64_t kMaxStep = 1024;
// Values of a tensor, 4 TiB of float32: sizes that no memory backs (an empty batch, shapes without storage) could be
// larger, and their products overflow.
constexpr double kMaxValues = 0x1p40;

// Python's None becomes an undefined tensor.
inline void check_defined(const char* op, const char* name, const at::Tensor& t) {
  TORCH_CHECK(t.defined(), op, ": ", name, " should be a tensor, got None");
}

inline void check_dense(const char* op, const char* name, const at::Tensor& t) {
  TORCH_CHECK(
      t.layout() == at::kStrided, op, ": ", name, " should be a dense tensor, got one of layout ", t.layout());
  TORCH_CHECK(
      static_cast<double>(t.numel()) <= kMaxValues, op, ": ", name, " should have at most 2^40 values, got shape ",
      t.sizes());
}

// float32, bfloat16 and float64 everywhere, float16 on CUDA only.
inline void check_dtype(const char* op, const char* name, const at::Tensor& t) {
  const auto type = t.scalar_type();
  const bool known = type == at::kFloat || type == at::kBFloat16 || type == at::kDouble ||
      (type == at::kHalf && !t.is_cpu());
  TORCH_CHECK(
      known, op, ": ", name, " should be float32, bfloat16 or float64 (float16 on CUDA only), got ",
      type, " on ", t.device());
  check_dense(op, name, t);
}

inline void check_device(const char* op, const char* name, const at::Tensor& t, const at::Tensor& x) {
  TORCH_CHECK(
      t.device() == x.device(), op, ": ", name, " is on ", t.device(), ", the input is on ", x.device());
  check_dense(op, name, t);
}

// A tensor of n images [c, h, w] that the operator makes.
inline void check_made(const char* op, int64_t n, int64_t c, int64_t h, int64_t w) {
  const auto values = static_cast<double>(std::max<int64_t>(n, 1)) * static_cast<double>(c) * static_cast<double>(h) *
      static_cast<double>(w);
  TORCH_CHECK(
      values <= kMaxValues, op, ": ", n, " images of ", c, " channels and ", h, "x", w,
      " pixels are more than the 2^40 values that a tensor may have");
}

// [N, C, H, W] with C, H, W > 0. N may be 0.
inline void check_image_sizes(const char* op, const char* name, const at::Tensor& x) {
  check_defined(op, name, x);
  TORCH_CHECK(
      x.dim() == 4, op, ": ", name, " should be a 4d tensor [N, C, H, W], got ", x.dim(), "d");
  TORCH_CHECK(
      x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, op, ": ", name,
      " should have channels and pixels, got shape ", x.sizes());
  check_dense(op, name, x);
  check_made(op, x.size(0), x.size(1), x.size(2), x.size(3));
}

// An activation of floats.
inline void check_image(const char* op, const char* name, const at::Tensor& x) {
  check_image_sizes(op, name, x);
  check_dtype(op, name, x);
}

inline bool is_8bit(const at::Tensor& x) {
  return x.scalar_type() == at::kByte || x.scalar_type() == at::kChar;
}

// A convolution's weight [out, in / groups, k, k], k odd up to 7, of the input's device and type; int8 beside an input
// of 8 bits.
inline void check_weight(const char* op, const char* name, const at::Tensor& w, const at::Tensor& x) {
  check_defined(op, name, w);
  TORCH_CHECK(
      w.dim() == 4, op, ": ", name, " should be a 4d tensor [out, in / groups, k, k], got ", w.dim(), "d");
  const auto k = w.size(2);
  TORCH_CHECK(
      w.size(0) > 0 && w.size(1) > 0, op, ": ", name, " should have channels, got shape ", w.sizes());
  TORCH_CHECK(
      k == w.size(3) && k % 2 == 1 && k <= 7, op, ": ", name,
      " should have a square kernel of 1, 3, 5 or 7, got ", k, "x", w.size(3));
  TORCH_CHECK(
      w.scalar_type() == (is_8bit(x) ? at::kChar : x.scalar_type()), op, ": ", name, " is ", w.scalar_type(),
      ", the input is ", x.scalar_type(), is_8bit(x) ? ", beside which it should be int8" : "");
  check_device(op, name, w, x);
}

// One value per channel, of the input's type or float32 (parameters often stay float32 beside bfloat16).
inline void check_channels(
    const char* op, const char* name, const at::Tensor& v, int64_t channels, const at::Tensor& x) {
  check_defined(op, name, v);
  TORCH_CHECK(
      v.dim() == 1 && v.size(0) == channels, op, ": ", name, " should have shape [", channels, "], got ",
      v.sizes());
  const bool same = v.scalar_type() == x.scalar_type();
  TORCH_CHECK(
      same || (v.scalar_type() == at::kFloat && x.scalar_type() != at::kDouble), op, ": ", name,
      " should be of the input's type ", x.scalar_type(),
      x.scalar_type() == at::kDouble ? "" : " or float32", ", got ", v.scalar_type());
  check_device(op, name, v, x);
}

// The size of a convolution's output along one axis; refuses a window that does not fit.
inline int64_t conv_out_size(const char* op, int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
  TORCH_CHECK(stride >= 1, op, ": stride should be at least 1, got ", stride);
  TORCH_CHECK(stride <= kMaxStep, op, ": stride should be at most ", kMaxStep, ", got ", stride);
  TORCH_CHECK(padding >= 0, op, ": padding should not be negative, got ", padding);
  TORCH_CHECK(padding <= kMaxStep, op, ": padding should be at most ", kMaxStep, ", got ", padding);
  TORCH_CHECK(
      size + 2 * padding >= kernel, op, ": a ", kernel, "x", kernel, " kernel does not fit an input of ",
      size, " pixels with padding ", padding);
  return (size + 2 * padding - kernel) / stride + 1;
}

// The gradient of an output, or an output kept for backward: of the input's type and device.
inline void check_like(
    const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape, const at::Tensor& x) {
  check_defined(op, name, t);
  TORCH_CHECK(t.sizes() == shape, op, ": ", name, " should have shape ", shape, ", got ", t.sizes());
  TORCH_CHECK(
      t.scalar_type() == x.scalar_type(), op, ": ", name, " is ", t.scalar_type(), ", the input is ",
      x.scalar_type());
  check_device(op, name, t, x);
}

// Which gradients are wanted.
inline void check_needed(const char* op, c10::ArrayRef<bool> needed, size_t gradients) {
  TORCH_CHECK(
      needed.size() == gradients, op, ": needed should have ", gradients, " entries, got ", needed.size());
}

// The type to accumulate in: float64 for float64, else float32.
inline at::ScalarType accumulate_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A mean or a variance of the batch: one value per channel, in the type accumulated in.
inline void check_statistics(
    const char* op, const char* name, const at::Tensor& v, int64_t channels, const at::Tensor& x) {
  check_defined(op, name, v);
  TORCH_CHECK(
      v.dim() == 1 && v.size(0) == channels, op, ": ", name, " should have shape [", channels, "], got ",
      v.sizes());
  TORCH_CHECK(
      v.scalar_type() == accumulate_type(x), op, ": ", name, " should be ", accumulate_type(x), " beside an input of ",
      x.scalar_type(), ", got ", v.scalar_type());
  check_device(op, name, v, x);
}

} // namespace supernet
