// dw_separable_int8 and inverted_bottleneck_int8, inference on 8-bit values as ONNX's QLinearConv defines it: one
// contract for every device. A block is up to three convolutions. Each makes of q, 8-bit values of one scale and zero
// point, other ones:
//
//   sum = bias + Σ weight (q - in_zero)                       outside of an image q is in_zero
//   out = clamp(round(float(sum) scale) + zero)               to the 8-bit type; halves to even
//   out = table[out - least]                                  where there is a table
//
// weight is int8 [out, in / groups, k, k], symmetric; bias int32 and scale float32 [out]: scale is that of the input
// times that of the weight, per channel, by that of the output. An activation is the clamp where the type ends where the
// activation does (ReLU: zero is the least value; ReLU6: and the greatest stands for at most 6), else a table. A
// residual adds x to the projection's output q: y = clamp(round((q - zero) pw_factor + (x - x_zero) x_factor) + y_zero),
// in float32. Activations are all uint8 or all int8.
//
// Every form gives the same bits: sums are integers of 32 bits, which wrap around (the products alone stay below 2^30, so
// only a bias makes them; ONNX leaves it open), and each step in float32 is one rounding (Int8Residual).
#pragma once

#include <cmath>
#include <optional>

#include "ops/inverted_bottleneck.h"

namespace supernet {

struct Int8Conv {
  at::Tensor weight, bias, scale;
  int64_t in_zero, zero;
  std::optional<at::Tensor> table;
};

struct Int8Residual {
  float x_factor, pw_factor;
  int64_t zero;

  // Of 16 bits, so that products with 8-bit values are exact and a sum of two is rounded once, whether a compiler
  // makes one instruction of product and sum or not.
  static float factor(double value) {
    int exponent = 0;
    const auto mantissa = std::frexp(value, &exponent);
    return static_cast<float>(std::ldexp(std::nearbyint(mantissa * 0x1p16), exponent - 16));
  }
};

// A call whose arguments were checked.
struct Int8Block {
  at::Tensor x;
  std::optional<Int8Conv> expand;
  Int8Conv dw, pw;
  std::optional<Int8Residual> residual;
  int64_t stride;
  DwSeparableShape shape; // of all behind the expansion

  bool is_signed() const {
    return x.scalar_type() == at::kChar;
  }
};

// Inputs of a convolution, so that sums of products stay below 2^30.
constexpr int64_t kMaxInt8Inputs = 32768;

inline void check_vector(
    const char* op, const char* name, const at::Tensor& v, int64_t size, at::ScalarType type, const at::Tensor& x) {
  check_defined(op, name, v);
  TORCH_CHECK(
      v.dim() == 1 && v.size(0) == size && v.scalar_type() == type, op, ": ", name, " should be ", type, " of shape [",
      size, "], got ", v.scalar_type(), " of shape ", v.sizes());
  check_device(op, name, v, x);
}

// All of a convolution but its weight. Names begin with `part`.
inline void check_int8_conv(const char* op, const std::string& part, const Int8Conv& c, const at::Tensor& x) {
  const auto outputs = c.weight.size(0);
  check_vector(op, (part + "_bias").c_str(), c.bias, outputs, at::kInt, x);
  check_vector(op, (part + "_scale").c_str(), c.scale, outputs, at::kFloat, x);
  if (c.table) {
    check_vector(op, (part + "_table").c_str(), *c.table, 256, x.scalar_type(), x);
  }
  TORCH_CHECK(
      c.weight.size(1) <= kMaxInt8Inputs, op, ": ", part, "_weight should have at most ", kMaxInt8Inputs,
      " inputs, got ", c.weight.size(1));
}

inline void check_zero(const char* op, const std::string& name, int64_t zero, const at::Tensor& x) {
  const int64_t least = x.scalar_type() == at::kChar ? -128 : 0;
  TORCH_CHECK(
      zero >= least && zero <= least + 255, op, ": ", name, " should be a value of ", x.scalar_type(), ", from ", least,
      " to ", least + 255, ", got ", zero);
}

inline void check_int8_image(const char* op, const at::Tensor& x) {
  check_image_sizes(op, "x", x);
  TORCH_CHECK(is_8bit(x), op, ": x should be uint8 or int8, got ", x.scalar_type());
}

inline Int8Block check_int8_separable(const char* op, Int8Block call, int64_t channels) {
  const auto& x = call.x;
  call.shape = dw_separable_shape(op, x, channels, call.dw.weight, call.pw.weight, call.stride);
  const std::pair<const char*, const Int8Conv*> parts[] = {
      {"expand", call.expand ? &*call.expand : nullptr}, {"dw", &call.dw}, {"pw", &call.pw}};
  for (const auto& [part, conv] : parts) {
    if (conv) {
      check_int8_conv(op, part, *conv, x);
      check_zero(op, std::string(part) + "_in_zero", conv->in_zero, x);
      check_zero(op, std::string(part) + "_zero", conv->zero, x);
    }
  }
  return call;
}

inline Int8Block check_dw_separable_int8(
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_bias,
    const at::Tensor& dw_scale,
    int64_t dw_in_zero,
    int64_t dw_zero,
    const std::optional<at::Tensor>& dw_table,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_bias,
    const at::Tensor& pw_scale,
    int64_t pw_in_zero,
    int64_t pw_zero,
    const std::optional<at::Tensor>& pw_table,
    int64_t stride) {
  constexpr auto op = "dw_separable_int8";
  check_int8_image(op, x);
  return check_int8_separable(
      op,
      {x, {}, {dw_weight, dw_bias, dw_scale, dw_in_zero, dw_zero, dw_table},
       {pw_weight, pw_bias, pw_scale, pw_in_zero, pw_zero, pw_table}, {}, stride, {}},
      x.size(1));
}

inline Int8Block check_inverted_bottleneck_int8(
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const at::Tensor& expand_bias,
    const at::Tensor& expand_scale,
    int64_t expand_in_zero,
    int64_t expand_zero,
    const std::optional<at::Tensor>& expand_table,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_bias,
    const at::Tensor& dw_scale,
    int64_t dw_in_zero,
    int64_t dw_zero,
    const std::optional<at::Tensor>& dw_table,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_bias,
    const at::Tensor& pw_scale,
    int64_t pw_in_zero,
    int64_t pw_zero,
    bool residual,
    double x_factor,
    double pw_factor,
    int64_t y_zero,
    int64_t stride) {
  constexpr auto op = "inverted_bottleneck_int8";
  check_int8_image(op, x);
  check_expand_weight(op, expand_weight, x);
  std::optional<Int8Residual> added;
  if (residual) {
    check_zero(op, "y_zero", y_zero, x);
    for (const auto factor : {x_factor, pw_factor}) {
      TORCH_CHECK(
          std::abs(factor) <= 0x1p60, op, ": x_factor and pw_factor should be ratios of scales, got ", x_factor,
          " and ", pw_factor);
    }
    added = {Int8Residual::factor(x_factor), Int8Residual::factor(pw_factor), y_zero};
  }
  const auto call = check_int8_separable(
      op,
      {x, Int8Conv{expand_weight, expand_bias, expand_scale, expand_in_zero, expand_zero, expand_table},
       {dw_weight, dw_bias, dw_scale, dw_in_zero, dw_zero, dw_table},
       {pw_weight, pw_bias, pw_scale, pw_in_zero, pw_zero, {}}, added, stride, {}},
      expand_weight.size(0));
  check_residual(op, residual, stride, x, call.shape);
  return call;
}

} // namespace supernet
