// The int8 blocks on the CPU: band after band of rows, the depthwise part makes pixels in a buffer, some channels at a
// time, from a few rows that slide over x or over what the expansion makes of it; the pointwise product reads the
// buffer while it is in the L2 cache.
#include <vector>

#include "cpu/dw_separable.h"
#include "cpu/int8_kernels.h"
#include "ops/int8_operators.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;
using cpu::ceil_div;
using cpu::Int8Kernels;
using cpu::round_up;
using cpu::scratch;
using cpu::Use;

constexpr auto kBlock = Int8Kernels::kBlock, kPanel = Int8Kernels::kPanel;
// Values of the depthwise part's output in a band.
constexpr int64_t kBand = 128 * 1024;

// How the values of a call are unsigned within the kernels.
struct Unsigned {
  int64_t offset;
  uint8_t flip;

  explicit Unsigned(const Int8Block& call) : offset(call.is_signed() ? 128 : 0), flip(static_cast<uint8_t>(offset)) {}
};

// To values of the kernels, or of a tensor.
cpu::Rounding rounding(int64_t zero, const Unsigned& form, bool to_tensor) {
  zero += form.offset;
  return {static_cast<float>(255 - zero), static_cast<int32_t>(zero), to_tensor ? form.flip : uint8_t(0)};
}

const uint8_t* bytes_of(const Tensor& t) {
  return static_cast<const uint8_t*>(t.const_data_ptr());
}

// A convolution's sums as values, its channels padded to whole panels.
class Requantised {
 public:
  // Values for the next convolution, or those of the result where `last` says so. `sums` are of the weight's rows.
  Requantised(const Int8Conv& conv, const Unsigned& form, const std::vector<int32_t>& sums, bool last)
      : bias_(sums.size()), scale_(sums.size()), to_(rounding(conv.zero, form, last && !conv.table)) {
    const auto bias = conv.bias.contiguous(), scale = conv.scale.contiguous();
    const auto outputs = conv.weight.size(0);
    std::copy_n(scale.const_data_ptr<float>(), outputs, scale_.data());
    for (int64_t o = 0; o < outputs; ++o) {
      // Unsigned: whatever the given bias is, what overflows on the way may come back.
      bias_[o] = static_cast<int32_t>(
          static_cast<uint32_t>(bias.const_data_ptr<int32_t>()[o]) -
          static_cast<uint32_t>(sums[o]) * static_cast<uint32_t>(conv.in_zero + form.offset));
    }
    if (conv.table) {
      table_ = conv.table->contiguous().view(at::kByte);
      table_ = last ? table_ : table_.bitwise_xor(form.flip);
    }
  }

  cpu::Requantisation from(int64_t channel) const {
    return {bias_.data() + channel, scale_.data() + channel, to_};
  }
  void look_up(int64_t n, uint8_t* values) const {
    if (table_.defined()) {
      cpu::int8_kernels().look_up(bytes_of(table_), n, values);
    }
  }

 private:
  std::vector<int32_t> bias_;
  std::vector<float> scale_;
  Tensor table_;
  cpu::Rounding to_;
};

// A pointwise convolution of pixels padded to `depth`.
class Pointwise {
 public:
  Pointwise(const Int8Conv& conv, const Unsigned& form, int64_t depth, bool last)
      : depth(depth), columns(conv.weight.size(0)), packed_(at::empty({depth * round_up(columns, kBlock)}, at::kChar)) {
    const auto weight = conv.weight.contiguous();
    std::vector<int32_t> sums(round_up(columns, kPanel));
    cpu::int8_kernels().pack(
        weight.const_data_ptr<int8_t>(), weight.size(1), depth, columns, packed_.data_ptr<int8_t>(), sums.data());
    to.emplace(conv, form, sums, last);
  }

  // Columns [first, first + count) of some pixels; `first` begins a panel.
  void operator()(
      const uint8_t* x, int64_t pixels, int64_t first, int64_t count, const cpu::Addition* add, uint8_t* y,
      int64_t y_pixel) const {
    cpu::int8_kernels().multiply(
        x, pixels, depth, packed_.const_data_ptr<int8_t>() + first * depth, count, to->from(first), add, y, y_pixel);
  }

  std::optional<Requantised> to;
  const int64_t depth, columns;

 private:
  Tensor packed_;
};

// Some channels of an image's rows, from row `first` on.
struct Source {
  const uint8_t* data;
  int64_t first, pixel, lanes;
  uint8_t flip;
};

class Depthwise {
 public:
  Depthwise(const Int8Conv& conv, const Unsigned& form, const cpu::DepthwiseShape& s)
      : shape_(s),
        quads_(ceil_div(s.kernel, 4)),
        columns_((s.out_width - 1) * s.stride + 4 * (quads_ - 1) + 1),
        row_((columns_ + Int8Kernels::kTile * s.stride) * kBlock),
        fill_(static_cast<uint8_t>(conv.in_zero + form.offset)),
        taps_(ceil_div(s.channels, kBlock) * s.kernel * quads_ * kBlock),
        outside_(row_, static_cast<int32_t>(fill_ * 0x01010101u)) {
    const auto weight = conv.weight.contiguous();
    const auto* w = weight.const_data_ptr<int8_t>();
    std::vector<int32_t> sums(round_up(s.channels, kPanel));
    for (int64_t c = 0; c < s.channels; ++c) {
      auto* out = taps_.data() + c / kBlock * s.kernel * quads_ * kBlock + c % kBlock;
      for (int64_t i = 0; i < s.kernel; ++i, out += quads_ * kBlock) {
        for (int64_t j = 0; j < s.kernel; ++j, ++w) {
          out[j / 4 * kBlock] |= static_cast<uint32_t>(static_cast<uint8_t>(*w)) << j % 4 * 8;
          sums[c] += *w;
        }
      }
    }
    to.emplace(conv, form, sums, false);
  }

  // Output rows [begin, end) of an image, the block of channels from `channel` on.
  void operator()(const Source& x, int64_t channel, int64_t begin, int64_t end, uint8_t* y, int64_t y_pixel) const {
    const auto& s = shape_;
    const auto& kernels = cpu::int8_kernels();
    auto* ring = scratch<int32_t>(Use::output, s.kernel * row_);
    const int32_t* rows[7];
    const auto* taps = taps_.data() + channel / kBlock * s.kernel * quads_ * kBlock;
    const auto requantisation = to->from(channel);
    int64_t made = 0; // rows up to this one are in the ring
    for (auto o = begin; o < end; ++o, y += s.out_width * y_pixel) {
      const auto top = o * s.stride - s.padding;
      for (int64_t i = 0; i < s.kernel; ++i) {
        const auto r = top + i;
        if (r < 0 || r >= s.in_height) {
          rows[i] = outside_.data();
          continue;
        }
        auto* slot = ring + r % s.kernel * row_;
        rows[i] = slot;
        if (r >= made) {
          kernels.quads(
              x.data + (r - x.first) * s.in_width * x.pixel, s.in_width, x.pixel, x.lanes, x.flip, s.padding, fill_,
              columns_, slot);
          made = r + 1;
        }
      }
      kernels.depthwise(rows, s.kernel, s.stride, taps, requantisation, s.out_width, y, y_pixel);
    }
  }

  std::optional<Requantised> to;

 private:
  cpu::DepthwiseShape shape_;
  int64_t quads_, columns_, row_; // quads of a row of taps, columns of a row, its values
  uint8_t fill_;
  std::vector<uint32_t> taps_;
  std::vector<int32_t> outside_;
};

void run(const Int8Block& call, Tensor& y) {
  const auto& k = cpu::int8_kernels();
  const Unsigned form(call);
  const auto x = channels_last(call.x);
  const auto s = cpu::geometry(x, call.dw.weight, call.shape, call.stride);
  const auto batch = x.size(0), inputs = x.size(1), outputs = call.shape.out_channels;
  std::optional<Pointwise> expand;
  if (call.expand) {
    expand.emplace(*call.expand, form, round_up(inputs, k.depth_step), false);
  }
  const Depthwise depthwise(call.dw, form, s);
  const Pointwise project(call.pw, form, round_up(s.channels, std::max(k.depth_step, kBlock)), !call.residual);
  const auto depth = project.depth;
  std::optional<cpu::Addition> add;
  if (call.residual) {
    const auto& r = *call.residual;
    add = {
        nullptr, form.flip, static_cast<int32_t>(call.expand->in_zero + form.offset), r.x_factor, r.pw_factor,
        rounding(r.zero, form, true)};
  }

  const cpu::Bands bands(batch, s.out_height, s.out_width * s.channels, kBand, true);
  at::parallel_for(0, bands.count, 1, [&](int64_t from, int64_t until) {
    auto* middle = scratch<uint8_t>(Use::middle, (bands.images * bands.rows * s.out_width + 32) * depth);
    for (auto b = from; b < until; ++b) {
      const auto band = bands.band(b);
      const auto first = std::clamp<int64_t>(band.begin * s.stride - s.padding, 0, s.in_height);
      const auto end = std::clamp<int64_t>((band.end - 1) * s.stride - s.padding + s.kernel, first, s.in_height);
      const auto rows = band.images > 1 ? s.in_height : end - first;
      const auto in_pixels = band.images * rows * s.in_width, out_pixels = (band.end - band.begin) * s.out_width;
      const auto* in = bytes_of(x) + (band.first * s.in_height + first) * s.in_width * inputs;
      const uint8_t* padded = in;
      uint8_t* expanded = nullptr;
      if (expand) {
        expanded = scratch<uint8_t>(Use::expanded, in_pixels * kPanel);
        const bool words = expand->depth == inputs && reinterpret_cast<uintptr_t>(in) % 4 == 0;
        if (!words || form.flip) {
          auto* copy = scratch<uint8_t>(Use::input, (in_pixels + 32) * expand->depth);
          k.pad(in, in_pixels, inputs, expand->depth, form.flip, copy);
          padded = copy;
        }
      }
      for (int64_t panel = 0; panel < s.channels; panel += kPanel) {
        const auto lanes = std::min(kPanel, s.channels - panel);
        if (expand) {
          (*expand)(padded, in_pixels, panel, round_up(lanes, kBlock), nullptr, expanded, kPanel);
          expand->to->look_up(in_pixels * kPanel, expanded);
        }
        for (int64_t i = 0; i < band.images; ++i) {
          const auto pixel = i * rows * s.in_width;
          for (int64_t c = panel; c < panel + lanes; c += kBlock) {
            const Source source = expand
                ? Source{expanded + pixel * kPanel + c - panel, first, kPanel, kBlock, 0}
                : Source{in + pixel * inputs + c, first, inputs, std::min(kBlock, s.channels - c), form.flip};
            depthwise(source, c, band.begin, band.end, middle + i * out_pixels * depth + c, depth);
          }
        }
      }
      const auto pixels = band.images * out_pixels;
      depthwise.to->look_up(pixels * depth, middle);
      const auto at = (band.first * s.out_height + band.begin) * s.out_width * outputs;
      auto* out = static_cast<uint8_t*>(y.mutable_data_ptr()) + at;
      std::optional<cpu::Addition> here = add;
      if (here) {
        here->x = bytes_of(x) + at;
      }
      project(middle, pixels, 0, outputs, here ? &*here : nullptr, out, outputs);
      project.to->look_up(pixels * outputs, out);
    }
  });
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  Int8Operators<&run>::implement(m);
}

} // namespace supernet
