// The form of inverted_bottleneck for every device: the expansion through ATen, the rest as dw_separable, of
// which a device may have a form of its own.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "batch_norm_aten.h"
#include "inverted_bottleneck.h"
#include "layout.h"

namespace supernet {
namespace {

using at::Tensor;

Tensor pointwise(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  return channels_last(at::convolution(x, weight, bias, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1));
}

Tensor inverted_bottleneck(
    const Tensor& x,
    const Tensor& expand_weight,
    const Tensor& expand_scale,
    const Tensor& expand_shift,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    bool residual,
    int64_t stride,
    std::string_view act) {
  const auto [s, activation] = check_inverted_bottleneck(
      "inverted_bottleneck", x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift,
      pw_weight, pw_scale, pw_shift, residual, stride, act);
  const at::AutoDispatchBelowAutograd guard;
  if (x.size(0) == 0) {
    return at::empty(
        {0, s.out_channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  }
  const auto in = channels_last(x);
  const auto folded = at::mul(expand_weight, expand_scale.view({-1, 1, 1, 1})).to(x.scalar_type());
  auto expanded = pointwise(in, folded, expand_shift.to(x.scalar_type()));
  aten::activate_(activation, expanded);
  static const auto separable =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("supernet::dw_separable", "")
          .typed<Tensor(
              const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
              const Tensor&, int64_t, std::string_view, std::string_view)>();
  auto y = separable.call(
      expanded, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift, stride, act, "none");
  return residual ? y.add_(in) : y;
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CompositeExplicitAutograd, m) {
  m.impl("inverted_bottleneck", &inverted_bottleneck);
}

} // namespace supernet
