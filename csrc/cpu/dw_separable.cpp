// dw_separable, the inference form, on the CPU: what the depthwise part makes of some rows stays in the L2
// cache, where the pointwise product reads it.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "cpu/folded_blocks.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using cpu::FoldedConv;

template <typename T>
void infer(
    const Tensor& x,
    const DwSeparable& call,
    int64_t stride,
    const FoldedConv& dw,
    const FoldedConv& pw,
    Tensor& y) {
  using S = cpu::Compute<T>;
  const auto& s = call.shape;
  const auto geometry = cpu::geometry(x, dw.weight, s, stride);
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const auto* k = cpu::block_kernels_for(geometry)) {
      const cpu::WidenedInput input{*k, x};
      cpu::infer_blocks(*k, input, geometry, dw, call.mid_act, pw, call.out_act, nullptr, y.data_ptr<T>());
      return;
    }
  }
  const cpu::FoldedDepthwise<T> depthwise(dw, geometry, call.mid_act);
  const cpu::FoldedPointwise<T> pointwise(pw, call.out_act);
  const auto batch = x.size(0), row = s.width * s.channels;
  const cpu::DepthwiseInput<T> input(x.const_data_ptr<T>(), batch, geometry, nullptr);
  T* to = y.data_ptr<T>();
  const cpu::Bands bands(batch, s.height, row, 24 * 1024, true);
  at::parallel_for(0, bands.count, 1, [&](int64_t from, int64_t until) {
    for (auto b = from; b < until; ++b) {
      const auto band = bands.band(b);
      const auto rows = band.end - band.begin;
      auto* middle = cpu::scratch<S>(cpu::Use::middle, band.images * rows * row);
      for (int64_t i = 0; i < band.images; ++i) {
        int64_t readable = 0;
        const auto in = input.rows(band.first + i, band.begin, band.end, readable);
        depthwise(in, readable, band.begin, band.end, middle + i * rows * row);
      }
      const auto out = (band.first * s.height + band.begin) * s.width * s.out_channels;
      pointwise.store(middle, band.images * rows * s.width, nullptr, to + out);
    }
  });
}

Tensor dw_separable_cpu(
    const Tensor& x,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act) {
  const auto call = check_dw_separable(
      x, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, mid_act, out_act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  auto y = cpu::empty_image(x, call.shape.out_channels, call.shape);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "dw_separable", [&] {
    infer<scalar_t>(in, call, stride, {dw_weight, dw_scale, dw_shift}, {pw_weight, pw_scale, pw_shift}, y);
  });
  return y;
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("dw_separable", &dw_separable_cpu);
}

} // namespace supernet
