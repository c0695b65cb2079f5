// Inference in bfloat16 with BlockKernels: band after band, the depthwise part makes a buffer of rows, group of
// channels after group, and the pointwise product reads it while it is in the L2 cache.
#pragma once

#include "folded_cpu.h"

namespace supernet::cpu {

using c10::BFloat16;

inline const BlockKernels* block_kernels_for(const DepthwiseShape& s) {
  return s.kernel >= 3 && s.stride <= 2 ? block_kernels() : nullptr;
}

constexpr int64_t padded_to_group(int64_t channels) {
  return (channels + BlockKernels::kGroup - 1) / BlockKernels::kGroup * BlockKernels::kGroup;
}

class BlockPointwise {
 public:
  BlockPointwise(const BlockKernels& kernels, const FoldedConv& conv, Activation act)
      : in_(conv.weight.size(1)),
        out_(conv.weight.size(0)),
        kernels_(kernels),
        act_(act),
        bias_(padded<float>(conv.shift)),
        matrix_(at::empty({depth() * bias_.size(0)}, at::kBFloat16)) {
    const auto weight = conv.weight.to(at::kFloat).contiguous(), scale = conv.scale.to(at::kFloat).contiguous();
    kernels.pack(
        weight.const_data_ptr<float>(), in_, out_, scale.const_data_ptr<float>(), matrix_.data_ptr<BFloat16>());
  }

  // What the pixels are padded to.
  int64_t depth() const {
    return padded_to_group(in_);
  }
  int64_t out() const {
    return out_;
  }
  // A group of columns, from `first` on, as blocks.
  void expand(const BFloat16* x, int64_t pixels, int64_t first, float* y, int64_t y_block) const {
    kernels_.expand(
        x, pixels, depth(), matrix_.const_data_ptr<BFloat16>() + first * depth(), lanes(first),
        bias_.const_data_ptr<float>() + first, act_, y, y_block);
  }
  void project(const BFloat16* x, int64_t pixels, const BFloat16* residual, BFloat16* y) const {
    kernels_.project(
        x, pixels, depth(), matrix_.const_data_ptr<BFloat16>(), out_, bias_.const_data_ptr<float>(), act_,
        residual, y);
  }

 private:
  int64_t lanes(int64_t first) const {
    return std::min(out_ - first, BlockKernels::kGroup);
  }

  int64_t in_, out_;
  const BlockKernels& kernels_;
  Activation act_;
  at::Tensor bias_, matrix_;
};

// Blocks of the input itself, widened in the L1 cache: a few rows of one image and one block at a time.
struct WidenedInput {
  static constexpr int64_t kLanes = BlockKernels::kBlock, kValues = 10 * 1024;
  static constexpr bool kTogether = false; // the images of a band
  const BlockKernels& kernels;
  const at::Tensor& x;

  // Output rows to be computed at a time, as many as there are if that would widen most rows twice.
  int64_t rows(const DepthwiseShape& s) const {
    const auto rows = kValues / (s.in_width * kLanes), twice = s.kernel - s.stride;
    return rows > 2 * twice ? (rows - twice) / s.stride : s.out_height;
  }
  // So many pixels of x, as the next function takes them, and how long these are.
  const BFloat16* prepare(const BFloat16* at, int64_t) const {
    return at;
  }
  int64_t pixel() const {
    return x.size(1);
  }
  // kLanes channels from `first` on as blocks.
  void operator()(const BFloat16* in, int64_t pixels, int64_t first, float* y, int64_t) const {
    kernels.widen(in + first, pixels, pixel(), std::min(pixel() - first, kLanes), y);
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
  const BFloat16* prepare(const BFloat16* at, int64_t pixels) const {
    auto* padded = scratch<BFloat16>(Use::input, (pixels + BlockKernels::kGroup) * pixel());
    kernels.pad(at, pixels, x.size(1), padded);
    return padded;
  }
  int64_t pixel() const {
    return expand.depth();
  }
  void operator()(const BFloat16* in, int64_t pixels, int64_t first, float* y, int64_t y_block) const {
    expand.expand(in, pixels, first, y, y_block);
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
  const FoldedDepthwise<BFloat16> depthwise(dw, s, mid_act);
  const BlockPointwise pointwise(k, pw, out_act);
  const auto batch = input.x.size(0), x_pixel = input.x.size(1), depth = pointwise.depth();
  const auto* x = input.x.template const_data_ptr<BFloat16>();
  // Input rows [first, second) of output rows [begin, end).
  const auto needed = [&](int64_t begin, int64_t end) {
    const auto first = std::clamp<int64_t>(begin * s.stride - s.padding, 0, s.in_height);
    return std::pair(
        first, std::clamp<int64_t>((end - 1) * s.stride - s.padding + s.kernel, first, s.in_height));
  };
  const Bands bands(batch, s.out_height, s.out_width * s.channels, kBlockBand, true);
  // Of a band, all rows of several images: their input pixels, as range of those of the batch.
  const auto pixels_of = [&](const Bands::Band& band) {
    const auto [begin, end] = needed(band.begin, band.end);
    const auto last = band.first + band.images - 1;
    return std::pair(
        (band.first * s.in_height + begin) * s.in_width,
        (last * s.in_height + (band.images > 1 ? s.in_height : end)) * s.in_width);
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
      const auto* in = input.prepare(x + first_pixel * x_pixel, end_pixel - first_pixel);
      const auto image = s.in_height * s.in_width, together = Input::kTogether ? band.images : 1;
      const auto begin_of_band = needed(band.begin, band.end).first;
      for (int64_t c = 0; c < s.channels; c += Input::kLanes) {
        for (int64_t i = 0; i < band.images; i += together) {
          for (auto row = band.begin; row < band.end; row += rows_at_once) {
            const auto row_end = std::min(row + rows_at_once, band.end);
            const auto [begin, end] = needed(row, row_end);
            const auto pixels = (together - 1) * image + (end - begin) * s.in_width;
            const auto block = (pixels + kGroup) * kBlock;
            auto* blocks = scratch<float>(Use::expanded, block * Input::kLanes / kBlock);
            const auto at = i * image + (begin - begin_of_band) * s.in_width;
            input(in + at * input.pixel(), pixels, c, blocks, block);
            for (int64_t j = 0; j < together; ++j) {
              for (auto first = c; first < std::min(c + Input::kLanes, s.channels); first += kBlock) {
                const auto* from_block = blocks + (first - c) / kBlock * block + j * image * kBlock;
                auto* to = middle + (i + j) * out_pixels * depth + first;
                depthwise.block(k, {from_block, begin}, first, {to, band.begin}, depth, row, row_end, ahead);
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
