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
        weight.const_data_ptr<float>(), 1, in_, in_, out_, scale.const_data_ptr<float>(),
        matrix_.data_ptr<BFloat16>());
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

// Blocks of the input itself.
struct WidenedInput {
  const BlockKernels& kernels;
  const at::Tensor& x;

  // So many pixels of x, as the next function takes them.
  const BFloat16* rows(const BFloat16* at, int64_t) const {
    return at;
  }
  // The group of channels that begins with `first`, as blocks.
  void operator()(const BFloat16* rows, int64_t pixels, int64_t first, float* y, int64_t y_block) const {
    const auto channels = x.size(1);
    kernels.widen(rows + first, pixels, channels, std::min(channels - first, BlockKernels::kGroup), y, y_block);
  }
};

// Blocks of a pointwise convolution of the input.
struct ExpandedInput {
  const BlockKernels& kernels;
  const at::Tensor& x;
  const BlockPointwise& expand;

  const BFloat16* rows(const BFloat16* at, int64_t pixels) const {
    auto* padded = scratch<BFloat16>(Use::input, (pixels + BlockKernels::kGroup) * expand.depth());
    kernels.pad(at, pixels, x.size(1), padded);
    return padded;
  }
  void operator()(const BFloat16* rows, int64_t pixels, int64_t first, float* y, int64_t y_block) const {
    expand.expand(rows, pixels, first, y, y_block);
  }
};

// The input rows that a band needs, from row `begin` of its images on.
struct BandInput {
  const BFloat16* data;
  int64_t begin, image_pixels;
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
  const auto batch = input.x.size(0), depth = pointwise.depth(), x_row = s.in_width * input.x.size(1);
  const auto* x = input.x.template const_data_ptr<BFloat16>();
  const auto input_of = [&](const Bands::Band& band) {
    const auto first = band.begin * s.stride - s.padding, last = (band.end - 1) * s.stride - s.padding + s.kernel;
    const auto begin = std::clamp<int64_t>(first, 0, s.in_height);
    const auto end = band.images > 1 ? s.in_height : std::clamp<int64_t>(last, begin, s.in_height);
    return BandInput{x + (band.first * s.in_height + begin) * x_row, begin, (end - begin) * s.in_width};
  };
  const Bands bands(batch, s.out_height, s.out_width * s.channels, kBlockBand, true);
  at::parallel_for(0, bands.count, 1, [&](int64_t from, int64_t until) {
    const auto middle_pixels = bands.images * bands.rows * s.out_width + kGroup;
    auto* middle = scratch<BFloat16>(Use::middle, middle_pixels * depth);
    std::fill(middle, middle + (s.channels < depth ? middle_pixels * depth : 0), BFloat16(0));
    for (auto b = from; b < until; ++b) {
      const auto band = bands.band(b);
      const auto out_rows = band.end - band.begin;
      const auto in = input_of(band);
      const auto pixels = band.images * in.image_pixels, block = (pixels + kGroup) * kBlock;
      auto* blocks = scratch<float>(Use::expanded, block * kGroup / kBlock);
      const auto* source = input.rows(in.data, pixels);
      Ahead ahead{};
      if (b + 1 < until) {
        const auto next = bands.band(b + 1);
        const auto wanted = input_of(next);
        const auto* end = wanted.data + next.images * wanted.image_pixels * input.x.size(1);
        ahead = {std::max(in.data + pixels * input.x.size(1), wanted.data), end};
      }
      for (int64_t c = 0; c < s.channels; c += kGroup) {
        input(source, pixels, c, blocks, block);
        for (int64_t first = c; first < std::min(c + kGroup, s.channels); first += kBlock) {
          for (int64_t i = 0; i < band.images; ++i) {
            depthwise.block(
                k, {blocks + (first - c) / kBlock * block + i * in.image_pixels * kBlock, in.begin}, first,
                {middle + i * out_rows * s.out_width * depth + first, band.begin}, depth, band.begin, band.end, ahead);
          }
        }
      }
      const auto at = (band.first * s.out_height + band.begin) * s.out_width * pointwise.out();
      pointwise.project(
          middle, band.images * out_rows * s.out_width, residual ? residual + at : nullptr, y + at);
    }
  });
}

} // namespace supernet::cpu
