// The form of the int8 blocks for every device: convolutions in float64, whose sums of such integers are exact, then cut
// to their lower 32 bits.
#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/round.h>
#include <ATen/ops/take.h>

#include <limits>

#include "aten/int8_blocks.h"
#include "ops/int8_operators.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;

// Rounded and clamped to the type of the block, as floats. NaN is the least value.
Tensor quantised(const Int8Block& call, const Tensor& real, int64_t zero) {
  const auto low = (call.is_signed() ? -128 : 0) - zero;
  return at::clamp(at::round(at::nan_to_num(real, -std::numeric_limits<double>::infinity())), low, low + 255).add_(zero);
}

// One convolution of 8-bit values held as floats.
Tensor convolve(
    const Int8Block& call, const Tensor& q, const Int8Conv& conv, int64_t stride, int64_t padding, int64_t groups) {
  const auto sums = at::convolution(
      q.to(at::kDouble).sub_(conv.in_zero), conv.weight.to(at::kDouble), conv.bias.to(at::kDouble), {stride, stride},
      {padding, padding}, {1, 1}, false, {0, 0}, groups);
  const auto real = sums.to(at::kLong).to(at::kInt).to(at::kFloat) * conv.scale.view({-1, 1, 1});
  const auto out = quantised(call, real, conv.zero);
  return conv.table ? at::take(*conv.table, (out + (call.is_signed() ? 128 : 0)).to(at::kLong)).to(at::kFloat) : out;
}

} // namespace

void aten::int8_block(const Int8Block& call, Tensor& y) {
  const auto& s = call.shape;
  const auto x = call.x.to(at::kFloat);
  auto q = call.expand ? convolve(call, x, *call.expand, 1, 0, 1) : x;
  q = convolve(call, q, call.dw, call.stride, s.padding, s.channels);
  q = convolve(call, q, call.pw, 1, 0, 1);
  if (call.residual) {
    const auto& r = *call.residual;
    const auto real = [](int64_t zero) { return static_cast<double>(zero); };
    q = quantised(call, (q - real(call.pw.zero)) * r.pw_factor + (x - real(call.expand->in_zero)) * r.x_factor, r.zero);
  }
  y.copy_(q);
}

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  Int8Operators<&aten::int8_block>::implement(m);
}

} // namespace supernet
