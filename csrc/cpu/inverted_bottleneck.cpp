// inverted_bottleneck, the inference form, on the CPU: of an image, band after band, the rows that the
// depthwise part needs next are expanded into a buffer, and what it makes of them is projected while both are
// in the L2 cache.
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "cpu/folded_blocks.h"
#include "ops/inverted_bottleneck.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using cpu::Band;
using cpu::FoldedConv;
using cpu::scratch;
using cpu::Use;

// Values of expanded rows that a band is the first to need, and that are kept at most.
constexpr int64_t kFresh = 32 * 1024, kKept = 128 * 1024;

// The expanded rows of one image (or of several small ones, then all rows) that the bands need, in a buffer
// through which they slide: a row is expanded once.
template <typename T>
class ExpandedRows {
 public:
  using S = cpu::Compute<T>;

  ExpandedRows(const Tensor& x, const cpu::DepthwiseShape& s, const cpu::FoldedPointwise<T>& expand, int64_t band)
      : x_(x.const_data_ptr<T>()),
        batch_(x.size(0)),
        in_channels_(x.size(1)),
        shape_(s),
        expand_(expand),
        capacity_(std::min(
            s.in_height, std::max(kKept / row(), s.kernel + (band - 1) * s.stride))) {}

  int64_t row() const {
    return shape_.in_width * shape_.channels;
  }

  // What output rows of the band need.
  Band<const S> operator()(const cpu::Bands::Band& band) {
    const auto& s = shape_;
    if (band.images > 1) {
      auto* buffer = scratch<S>(Use::expanded, band.images * s.in_height * row());
      expand(band.first, band.images, 0, s.in_height, buffer);
      image_ = -1;
      return {buffer, 0};
    }
    auto* buffer = scratch<S>(Use::expanded, capacity_ * row());
    const auto begin = std::clamp<int64_t>(band.begin * s.stride - s.padding, 0, s.in_height);
    const auto end = std::clamp<int64_t>((band.end - 1) * s.stride - s.padding + s.kernel, begin, s.in_height);
    if (image_ != band.first || begin > end_) {
      image_ = band.first;
      begin_ = end_ = begin;
    } else if (end - begin_ > capacity_) {
      std::copy(buffer + (begin - begin_) * row(), buffer + (end_ - begin_) * row(), buffer);
      begin_ = begin;
    }
    if (end > end_) {
      expand(image_, 1, end_, end, buffer + (end_ - begin_) * row());
      end_ = end;
    }
    return {buffer, begin_};
  }

 private:
  void expand(int64_t image, int64_t images, int64_t begin, int64_t end, S* out) const {
    int64_t readable = 0;
    const auto in = cpu::rows_of(
        x_, batch_, image, images, shape_.in_height, shape_.in_width, in_channels_, nullptr, begin, end,
        Use::input, readable);
    expand_(in.data + (begin - in.first) * shape_.in_width * in_channels_, images * (end - begin) * shape_.in_width, nullptr, out);
  }

  const T* x_;
  int64_t batch_, in_channels_;
  cpu::DepthwiseShape shape_;
  const cpu::FoldedPointwise<T>& expand_;
  int64_t capacity_;
  int64_t image_ = -1, begin_ = 0, end_ = 0; // rows [begin_, end_) of image_ are there
};

template <typename T>
void infer(
    const Tensor& x,
    const InvertedBottleneck& call,
    bool residual,
    int64_t stride,
    const FoldedConv& expand,
    const FoldedConv& dw,
    const FoldedConv& pw,
    Tensor& y) {
  using S = cpu::Compute<T>;
  const auto& s = call.shape;
  const auto batch = x.size(0);
  const auto geometry = cpu::geometry(x, dw.weight, s, stride);
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const auto* k = cpu::block_kernels_for(geometry)) {
      const cpu::BlockPointwise expansion(*k, expand, call.act, k->depth_step);
      const cpu::ExpandedInput input{*k, x, expansion};
      const auto* skip = residual ? x.const_data_ptr<T>() : nullptr;
      cpu::infer_blocks(*k, input, geometry, dw, call.act, pw, Activation::none, skip, y.data_ptr<T>());
      return;
    }
  }
  const cpu::FoldedPointwise<T> expansion(expand, call.act), projection(pw, Activation::none);
  const cpu::FoldedDepthwise<T> depthwise(dw, geometry, call.act);
  const auto row = s.width * s.channels, out_row = s.width * s.out_channels;
  T* to = y.data_ptr<T>();
  const cpu::Bands bands(batch, s.height, geometry.in_width * s.channels * stride, kFresh, true);
  at::parallel_for(0, bands.count, 1, [&](int64_t from, int64_t until) {
    ExpandedRows<T> expanded(x, geometry, expansion, bands.rows);
    for (auto b = from; b < until; ++b) {
      const auto band = bands.band(b);
      const auto rows = band.end - band.begin;
      const auto in = expanded(band);
      auto* middle = scratch<S>(Use::middle, band.images * rows * row);
      for (int64_t i = 0; i < band.images; ++i) {
        const Band<const S> image{in.data + i * geometry.in_height * expanded.row(), in.first};
        depthwise(image, 0, band.begin, band.end, middle + i * rows * row);
      }
      const S* skip = nullptr;
      if (residual) {
        int64_t readable = 0;
        const auto rows_in = cpu::rows_of(
            x.const_data_ptr<T>(), batch, band.first, band.images, s.height, s.width, s.out_channels, nullptr,
            band.begin, band.end, Use::gradient, readable);
        skip = rows_in.data + (band.begin - rows_in.first) * out_row;
      }
      projection.store(
          middle, band.images * rows * s.width, skip, to + (band.first * s.height + band.begin) * out_row);
    }
  });
}

Tensor inverted_bottleneck_cpu(
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
  const auto call = check_inverted_bottleneck(
      x, expand_weight, expand_scale, expand_shift, dw_weight, dw_scale, dw_shift, pw_weight, pw_scale, pw_shift,
      residual, stride, act);
  const at::AutoDispatchBelowAutograd guard;
  const auto in = channels_last(x);
  auto y = cpu::empty_image(x, call.shape.out_channels, call.shape);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "inverted_bottleneck", [&] {
    infer<scalar_t>(
        in, call, residual, stride, {expand_weight, expand_scale, expand_shift}, {dw_weight, dw_scale, dw_shift},
        {pw_weight, pw_scale, pw_shift}, y);
  });
  return y;
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("inverted_bottleneck", &inverted_bottleneck_cpu);
}

} // namespace supernet
