// Inference in bfloat16 with BlockKernels: band after band, the depthwise part makes a buffer of rows, group
// of channels after group, and the pointwise product reads it while it is in the L2 cache.
#pragma once

#include <cstddef>

#include "cpu/block_kernels.h"
#include "cpu/folded.h"

namespace supernet::cpu {

using c10::BFloat16;

inline const BlockKernels* block_kernels_for(const DepthwiseShape& s) {
  return s.kernel >= 3 && s.stride <= 2 ? block_kernels() : nullptr;
}

class BlockPointwise {
 public:
  // Of pixels padded to a multiple of `step`.
  BlockPointwise(const BlockKernels& kernels, const FoldedConv& conv, Activation act, int64_t step)
      : in_(conv.weight.size(1)),
        out_(conv.weight.size(0)),
        depth_(round_up(in_, step)),
        kernels_(kernels),
        act_(act),
        bias_(padded<float>(conv.shift)),
        matrix_(at::empty({depth_ * bias_.size(0)}, at::kBFloat16)) {
    const auto weight = conv.weight.to(at::kFloat).contiguous(), scale = conv.scale.to(at::kFloat).contiguous();
    kernels.pack(
        weight.const_data_ptr<float>(), in_, depth_, out_, scale.const_data_ptr<float>(),
        matrix_.data_ptr<BFloat16>());
  }

  // What the pixels are padded to.
  int64_t depth() const {
    return depth_;
  }
  int64_t out() const {
    return out_;
  }
  // A group of columns, from `first` on, as blocks: what output rows [begin, end) need.
  void expand(
      const DepthwiseShape& s, Band<const BFloat16> x, int64_t images, Rows out, int64_t first, void* blocks,
      int64_t block_stride) const {
    kernels_.expand(
        s, x, images, out.begin, out.end, depth_, matrix_.const_data_ptr<BFloat16>() + first * depth_,
        std::min(out_ - first, BlockKernels::kGroup), bias_.const_data_ptr<float>() + first, act_, blocks,
        block_stride);
  }
  void project(const BFloat16* x, int64_t pixels, const BFloat16* residual, BFloat16* y) const {
    kernels_.project(
        x, pixels, depth_, matrix_.const_data_ptr<BFloat16>(), out_, bias_.const_data_ptr<float>(), act_, residual,
        y);
  }

 private:
  int64_t in_, out_, depth_;
  const BlockKernels& kernels_;
  Activation act_;
  at::Tensor bias_, matrix_;
};

class BlockDepthwise {
 public:
  BlockDepthwise(const BlockKernels& kernels, const FoldedConv& conv, const DepthwiseShape& shape, Activation act)
      : kernels_(kernels), shape_(shape), act_(act), bias_(padded<float>(conv.shift)) {
    const auto blocks = ceil_div(shape.channels, BlockKernels::kBlock);
    const auto taps = pack_taps<float>(conv, shape);
    taps_ = at::empty({blocks * kernels.taps_bytes(shape.kernel)}, at::kByte);
    kernels.pack_taps(taps.const_data_ptr<float>(), blocks, shape.kernel, taps_.mutable_data_ptr());
  }

  // Output rows of the block of channels that begins with `first`.
  void operator()(
      const void* block, Rows rows, int64_t first, Band<BFloat16> out, int64_t out_pixel, Ahead& ahead) const {
    const auto* taps = taps_.const_data_ptr<uint8_t>() +
        first / BlockKernels::kBlock * kernels_.taps_bytes(shape_.kernel);
    kernels_.depthwise(
        shape_, block, taps, bias_.const_data_ptr<float>() + first, act_, out, out_pixel, rows.begin, rows.end, ahead);
  }

 private:
  const BlockKernels& kernels_;
  DepthwiseShape shape_;
  Activation act_;
  at::Tensor bias_, taps_;
};

// Blocks of the input itself, made in the L1 cache: a few rows of one image and one block at a time.
struct WidenedInput {
  static constexpr int64_t kLanes = BlockKernels::kBlock;
  static constexpr bool kTogether = false; // the images of a band
  const BlockKernels& kernels;
  const at::Tensor& x;

  // Output rows to be computed at a time, as many as there are if that would read most rows twice.
  int64_t rows(const DepthwiseShape& s) const {
    const auto all = kernels.block_bytes(s, 0, s.out_height), row = ceil_div(all, s.in_height);
    const auto in = kernels.cached_bytes / row, twice = s.kernel - s.stride, out = (in - twice) / s.stride;
    if (in <= 2 * twice) {
      return s.out_height;
    }
    return s.stride == 1 ? out / 2 * 2 : out; // at stride 1 two rows meet the same pairs; out is 2 at least
  }
  // Rows of an image, whole pixels of x behind each other, as the next function takes them.
  Band<const BFloat16> prepare(Band<const BFloat16> in, int64_t) const {
    return in;
  }
  int64_t pixel() const {
    return x.size(1);
  }
  // What output rows need of kLanes channels from `first` on.
  void operator()(
      const DepthwiseShape& s, Band<const BFloat16> in, int64_t, Rows out, int64_t first, void* block,
      int64_t) const {
    const auto* image = in.data - in.first * s.in_width * pixel();
    kernels.widen(s, image + first, out.begin, out.end, std::min(pixel() - first, kLanes), block);
  }
};

// Blocks of a pointwise convolution of the input, whose rows are worth keeping for all of a band.
struct ExpandedInput {
  static constexpr int64_t kLanes = BlockKernels::kGroup;
  static constexpr bool kTogether = true;
  const BlockKernels& kernels;
  const at::Tensor& x;
  const BlockPointwise& expand;

  int64_t rows(const DepthwiseShape& s) const {
    return s.out_height;
  }
  Band<const BFloat16> prepare(Band<const BFloat16> in, int64_t pixels) const {
    auto* padded = scratch<BFloat16>(Use::input, (pixels + BlockKernels::kGroup) * pixel());
    kernels.pad(in.data, pixels, x.size(1), pixel(), padded);
    return {padded, in.first};
  }
  int64_t pixel() const {
    return expand.depth();
  }
  void operator()(
      const DepthwiseShape& s, Band<const BFloat16> in, int64_t images, Rows out, int64_t first, void* blocks,
      int64_t block_stride) const {
    expand.expand(s, in, images, out, first, blocks, block_stride);
  }
};

// Values of the depthwise part's output in a band.
constexpr int64_t kBlockBand = 64 * 1024;

// y = act(pw(act(dw(input)))) + residual, which may be null: [N, out channels, H, W], as y.
template <class Input>
void infer_blocks(
    const BlockKernels& k, const Input& input, const DepthwiseShape& s, const FoldedConv& dw, Activation mid_act,
    const FoldedConv& pw, Activation out_act, const BFloat16* residual, BFloat16* y) {
  constexpr auto kBlock = BlockKernels::kBlock, kGroup = BlockKernels::kGroup;
  const BlockDepthwise depthwise(k, dw, s, mid_act);
  const BlockPointwise pointwise(k, pw, out_act, std::max(k.depth_step, kBlock));
  const auto batch = input.x.size(0), x_pixel = input.x.size(1), depth = pointwise.depth();
  const auto* x = input.x.template const_data_ptr<BFloat16>();
  const Bands bands(batch, s.out_height, s.out_width * s.channels, kBlockBand, true);
  // Of a band, all rows of several images: their input pixels, as range of those of the batch.
  const auto pixels_of = [&](const Bands::Band& band) {
    const auto rows = k.rows_read(s, band.begin, band.end);
    const auto last = band.first + band.images - 1;
    return std::pair(
        (band.first * s.in_height + rows.begin) * s.in_width,
        (last * s.in_height + (band.images > 1 ? s.in_height : rows.end)) * s.in_width);
  };
  const auto rows_at_once = std::min(input.rows(s), bands.rows);
  at::parallel_for(0, bands.count, 1, [&](int64_t from, int64_t until) {
    const auto middle_size = (bands.images * bands.rows * s.out_width + kGroup) * depth;
    auto* middle = scratch<BFloat16>(Use::middle, middle_size);
    std::fill(middle, middle + (s.channels < depth ? middle_size : 0), BFloat16(0));
    for (auto b = from; b < until; ++b) {
      const auto band = bands.band(b);
      const auto out_pixels = (band.end - band.begin) * s.out_width;
      const auto y_first = (band.first * s.out_height + band.begin) * s.out_width;
      const auto [first_pixel, end_pixel] = pixels_of(band);
      Ahead ahead;
      ahead.next_out = y + y_first * pointwise.out();
      ahead.end_out = ahead.next_out + band.images * out_pixels * pointwise.out();
      if (b + 1 < until) {
        const auto [next, end] = pixels_of(bands.band(b + 1));
        ahead.next = x + std::max(next, end_pixel) * x_pixel;
        ahead.end = x + end * x_pixel;
      }
      const auto in = input.prepare(
          {x + first_pixel * x_pixel, k.rows_read(s, band.begin, band.end).begin}, end_pixel - first_pixel);
      const auto image = s.in_height * s.in_width * input.pixel(), together = Input::kTogether ? band.images : 1;
      for (int64_t c = 0; c < s.channels; c += Input::kLanes) {
        for (int64_t i = 0; i < band.images; i += together) {
          for (auto row = band.begin; row < band.end; row += rows_at_once) {
            const Rows rows{row, std::min(row + rows_at_once, band.end)};
            const auto bytes = k.block_bytes(s, rows.begin, rows.end);
            const auto block = together * bytes + kGroup * BlockKernels::kPixelBytes;
            auto* blocks = scratch<std::byte>(Use::expanded, block * Input::kLanes / kBlock);
            input(s, {in.data + i * image, in.first}, together, rows, c, blocks, block);
            for (int64_t j = 0; j < together; ++j) {
              for (auto first = c; first < std::min(c + Input::kLanes, s.channels); first += kBlock) {
                auto* to = middle + (i + j) * out_pixels * depth + first;
                depthwise(
                    blocks + (first - c) / kBlock * block + j * bytes, rows, first, {to, band.begin}, depth, ahead);
              }
            }
          }
        }
      }
      const auto at = y_first * pointwise.out();
      pointwise.project(middle, band.images * out_pixels, residual ? residual + at : nullptr, y + at);
    }
  });
}

} // namespace supernet::cpu
