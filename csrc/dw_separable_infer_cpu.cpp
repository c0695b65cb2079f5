// dw_separable, the inference form, on the CPU: what the depthwise part makes of some rows stays in the L2
// cache, where the pointwise product reads it. Scales are folded into the weights, shifts are what the sums
// begin with.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "dw_separable_cpu.h"
#include "layout.h"

namespace supernet {
namespace {

using at::Tensor;
using cpu::kernels;
using cpu::row_kernels;
using cpu::scratch;
using cpu::Use;

// A batch cut into parts that fill the cache: bands of an image's rows, or several small images.
struct Parts {
  int64_t images; // per part
  int64_t rows; // per part and image
  int64_t bands; // per image
  int64_t count;

  Parts(int64_t batch, const DwSeparableShape& s) {
    constexpr int64_t kValues = 24 * 1024;
    const auto pixels = std::max<int64_t>(kValues / s.channels, 1);
    rows = std::clamp<int64_t>(pixels / s.width, 1, s.height);
    bands = cpu::ceil_div(s.height, rows);
    rows = cpu::ceil_div(s.height, bands);
    images = bands > 1 ? 1 : std::clamp<int64_t>(pixels / (s.height * s.width), 1, batch);
    count = cpu::ceil_div(batch, images) * bands;
  }
};

// A vector per channel as S, padded with zeros to whole vectors.
template <typename S>
Tensor padded(const Tensor& v) {
  auto out = at::zeros({cpu::round_up(v.size(0), kernels<S>().vector)}, cpu::values<S>({0}).options());
  out.narrow(0, 0, v.size(0)).copy_(v);
  return out;
}

template <typename T>
void infer(
    const Tensor& x,
    const DwSeparableShape& s,
    const cpu::DepthwiseShape& geometry,
    const Tensor& dw_weight,
    const Tensor& dw_scale,
    const Tensor& dw_shift,
    Activation mid_act,
    const Tensor& pw_weight,
    const Tensor& pw_scale,
    const Tensor& pw_shift,
    Activation out_act,
    Tensor& y) {
  using S = cpu::Compute<T>;
  const auto& k = kernels<S>();
  const auto type = accumulate_type(x);
  const auto dw = dw_weight.to(type).contiguous(), pw = pw_weight.to(type).contiguous();
  const auto scale_in = dw_scale.to(type).contiguous(), scale_out = pw_scale.to(type).contiguous();
  const auto bias_in = padded<S>(dw_shift), bias_out = padded<S>(pw_shift);
  const auto taps = cpu::values<S>({bias_in.size(0) * geometry.kernel * geometry.kernel});
  auto* packed_dw = taps.template data_ptr<S>();
  k.pack_depthwise(
      dw.const_data_ptr<S>(), scale_in.const_data_ptr<S>(), s.channels, geometry.kernel, false, packed_dw);
  const auto matrix = cpu::pack_pointwise<S>(pw, scale_out.const_data_ptr<S>(), false);
  const auto* packed_pw = matrix.template const_data_ptr<S>();
  const auto* bias = bias_out.template const_data_ptr<S>();

  cpu::DepthwiseEpilogue<S> epilogue;
  epilogue.bias = bias_in.template const_data_ptr<S>();
  epilogue.act = mid_act;
  const auto batch = x.size(0), row = s.width * s.channels;
  const cpu::DepthwiseInput<T> input(x.const_data_ptr<T>(), batch, geometry);
  T* to = y.data_ptr<T>();
  const Parts parts(batch, s);
  at::parallel_for(0, parts.count, 1, [&](int64_t from, int64_t until) {
    auto each = epilogue;
    for (auto part = from; part < until; ++part) {
      const auto first = part / parts.bands * parts.images, last = std::min(first + parts.images, batch);
      const auto begin = part % parts.bands * parts.rows, end = std::min(begin + parts.rows, s.height);
      auto* middle = scratch<S>(Use::middle, (last - first) * (end - begin) * row);
      for (auto image = first; image < last; ++image) {
        const auto in = input.rows(image, begin, end, each.readable_rows);
        auto* to_cache = middle + (image - first) * (end - begin) * row;
        k.depthwise(geometry, in, packed_dw, {to_cache, begin}, begin, end, each);
      }
      const auto pixels = (last - first) * (end - begin) * s.width;
      T* out = to + (first * s.height + begin) * s.width * s.out_channels;
      S* product;
      if constexpr (std::is_same_v<T, S>) {
        product = out;
      } else {
        product = scratch<S>(Use::output, pixels * s.out_channels);
      }
      k.matmul(middle, pixels, s.channels, packed_pw, s.out_channels, bias, out_act, product);
      if constexpr (!std::is_same_v<T, S>) {
        row_kernels<T, S>().store(product, pixels * s.out_channels, out);
      }
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
  constexpr auto op = "dw_separable";
  const auto s = dw_separable_shape(op, x, dw_weight, pw_weight, stride);
  check_channels(op, "dw_scale", dw_scale, s.channels, x);
  check_channels(op, "dw_shift", dw_shift, s.channels, x);
  check_channels(op, "pw_scale", pw_scale, s.out_channels, x);
  check_channels(op, "pw_shift", pw_shift, s.out_channels, x);
  const auto mid = parse_activation(op, "mid_act", mid_act), out = parse_activation(op, "out_act", out_act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  auto y = cpu::empty_image(x, s.out_channels, s);
  if (x.size(0) == 0) {
    return y;
  }
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), op, [&] {
    infer<scalar_t>(
        in, s, cpu::geometry(x, dw_weight, s, stride), dw_weight, dw_scale, dw_shift, mid, pw_weight,
        pw_scale, pw_shift, out, y);
  });
  return y;
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("dw_separable", &dw_separable_cpu);
}

} // namespace supernet
