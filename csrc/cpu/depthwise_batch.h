// Depthwise convolutions of whole batches on the CPU: the loops over images, bands and threads around the
// kernels. float32 and float64 are computed in place, bfloat16 is widened band by band.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/scratch.h"

namespace supernet::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// A batch cut into bands: of an image's output rows, or of several small images. They follow from the sizes
// alone: so do, whatever the number of threads, the sums that are taken per band.
struct Bands {
  int64_t batch, height; // images and their output rows
  int64_t rows; // of a band
  int64_t images = 1; // of a band, more than one only if it has all of their rows
  int64_t per_image, count;

  // Bands have about `values` values, of which a row has `row_values`; several images only if `group` says
  // so.
  Bands(int64_t batch, int64_t height, int64_t row_values, int64_t values, bool group)
      : batch(batch), height(height), rows(std::clamp<int64_t>(values / row_values, 1, height)) {
    rows = ceil_div(height, ceil_div(height, rows));
    per_image = ceil_div(height, rows);
    if (group && per_image == 1) {
      images = std::clamp<int64_t>(values / (row_values * height), 1, std::max<int64_t>(batch, 1));
    }
    count = ceil_div(batch, images) * per_image;
  }

  struct Band {
    int64_t first, images; // images [first, first + images)
    int64_t begin, end; // rows
    bool last_rows; // of their images
  };
  Band band(int64_t b) const {
    const auto first = b / per_image * images, begin = b % per_image * rows;
    const auto end = std::min(begin + rows, height);
    return {first, std::min(images, batch - first), begin, end, end == height};
  }
};

// Calls f(chunk, begin, end) for `chunks` even parts of [0, n), in parallel.
template <class F>
void parallel_chunks(int64_t n, int64_t chunks, const F& f) {
  at::parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
    for (auto c = from; c < to; ++c) {
      f(c, n * c / chunks, n * (c + 1) / chunks);
    }
  });
}

template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A contiguous tensor of x's device in the type computed in.
template <typename S>
at::Tensor values(at::IntArrayRef sizes) {
  return at::empty(sizes, at::TensorOptions().dtype(c10::CppTypeToScalarType<S>::value));
}

// Rows [begin, end) of `count` images in memory (all rows if more than one), as the type computed in: where
// they are, or widened into a buffer, through `prologue` where that is not null.
template <typename T>
Band<const Compute<T>> rows_of(
    const T* data,
    int64_t images,
    int64_t image,
    int64_t count,
    int64_t height,
    int64_t width,
    int64_t channels,
    const Affine<Compute<T>>* prologue,
    int64_t begin,
    int64_t end,
    Use use,
    int64_t& readable) {
  using S = Compute<T>;
  const auto row = width * channels, pixels = count * (end - begin) * width;
  const T* at = data + image * height * row;
  if constexpr (std::is_same_v<T, S>) {
    if (!prologue) {
      readable = (images - image) * height;
      return {at, 0};
    }
  }
  auto* buffer = scratch<S>(use, pixels * channels);
  if (prologue) {
    row_kernels<T, S>().normalise(at + begin * row, pixels, channels, *prologue, buffer);
  } else {
    row_kernels<T, S>().load(at + begin * row, pixels * channels, buffer);
  }
  readable = 0;
  return {buffer, begin};
}

// The input of a batch's depthwise convolution.
template <typename T>
class DepthwiseInput {
 public:
  using S = Compute<T>;

  // Batch norm and activation are applied on reading where `prologue` is not null.
  DepthwiseInput(const T* x, int64_t images, const DepthwiseShape& shape, const Affine<S>* prologue)
      : x_(x), images_(images), shape_(shape), prologue_(prologue) {}

  // The rows that output rows [begin, end) meet; `readable` as in DepthwiseEpilogue.
  auto rows(int64_t image, int64_t begin, int64_t end, int64_t& readable) const {
    const auto& s = shape_;
    const auto first = std::clamp<int64_t>(begin * s.stride - s.padding, 0, s.in_height);
    const auto last = std::clamp<int64_t>((end - 1) * s.stride - s.padding + s.kernel, first, s.in_height);
    return rows_of(
        x_, images_, image, 1, s.in_height, s.in_width, s.channels, prologue_, first, last, Use::input,
        readable);
  }

  // The rows of a band: of several images all.
  auto rows(const Bands::Band& b, int64_t& readable) const {
    if (b.images == 1) {
      return rows(b.first, b.begin, b.end, readable);
    }
    const auto& s = shape_;
    return rows_of(
        x_, images_, b.first, b.images, s.in_height, s.in_width, s.channels, prologue_, 0, s.in_height,
        Use::input, readable);
  }

 private:
  const T* x_;
  int64_t images_;
  DepthwiseShape shape_;
  const Affine<S>* prologue_;
};

// For DepthwiseBatch::backward when nothing happens to x's gradient.
constexpr auto nothing_more = [](auto&&...) {};

template <typename T>
class DepthwiseBatch {
 public:
  using S = Compute<T>;

  DepthwiseBatch(int64_t images, const DepthwiseShape& shape)
      : images_(images),
        shape_(shape),
        bands_(images, shape.out_height, row_values(), 256 * 1024, false),
        groups_(images, shape.out_height, row_values(), 64 * 1024, true),
        padded_(round_up(shape.channels, kernels<S>().vector)),
        x_row_(shape.in_width * shape.channels),
        y_row_(shape.out_width * shape.channels) {}

  // Of forward and of backward.
  const Bands& bands() const {
    return bands_;
  }
  const Bands& groups() const {
    return groups_;
  }
  // Channels, rounded up to whole vectors.
  int64_t padded() const {
    return padded_;
  }

  // y; and where moments is not null, those of every band: [bands][kMoments][padded]. x is read through
  // `prologue` where that is not null.
  void forward(const T* x, const Affine<S>* prologue, const S* weight, T* y, S* moments) const {
    const auto& k = kernels<S>();
    const auto packed = pack(weight, false);
    const DepthwiseInput<T> input(x, images_, shape_, prologue);
    at::parallel_for(0, bands_.count, 1, [&](int64_t from, int64_t to) {
      for (auto b = from; b < to; ++b) {
        const auto [image, images, begin, end, last] = bands_.band(b);
        DepthwiseEpilogue<S> epilogue;
        epilogue.streams = std::is_same_v<T, S>;
        epilogue.moments = moments ? moments + b * kMoments * padded_ : nullptr;
        const auto in = input.rows(image, begin, end, epilogue.readable_rows);
        T* out = y + (image * shape_.out_height + begin) * y_row_;
        if constexpr (std::is_same_v<T, S>) {
          k.depthwise(shape_, in, packed.template const_data_ptr<S>(), {out, begin}, begin, end, epilogue);
        } else {
          auto* buffer = scratch<S>(Use::output, (end - begin) * y_row_);
          k.depthwise(shape_, in, packed.template const_data_ptr<S>(), {buffer, begin}, begin, end, epilogue);
          row_kernels<T, S>().store(buffer, (end - begin) * y_row_, out);
        }
      }
    });
  }

  // The gradients of x and of the weight ([channels, k * k]), where not null. load(first image, images,
  // begin, end, readable) gives rows of the output's gradient as S, of several images all rows, in a buffer
  // that outlives the band (Use::gradient). x is read through `prologue` where that is not null; its gradient
  // stops behind that. finish(band, first pixel, pixels, values) is called for what a band wrote of it, in the
  // cache.
  template <class Load, typename G, class Finish>
  void backward(
      const Load& load, const T* x, const Affine<S>* prologue, const S* weight, G* grad_x, S* grad_weight,
      const Finish& finish) const {
    const auto& k = kernels<S>();
    const auto taps = shape_.kernel * shape_.kernel;
    const auto packed = grad_x ? pack(weight, shape_.stride == 1) : at::Tensor();
    // Sums of a chunk stay in the cache; together they stay small beside the images.
    const auto sums_size = padded_ * taps;
    const auto chunks = std::min(groups_.count, std::clamp<int64_t>(512 * 1024 / sums_size, 8, 32));
    const auto sums = at::zeros({chunks, sums_size}, values<S>({0}).options());
    auto* all_sums = sums.template data_ptr<S>();
    const DepthwiseInput<T> input(x, images_, shape_, prologue);

    parallel_chunks(groups_.count, chunks, [&](int64_t chunk, int64_t from, int64_t to) {
      for (auto b = from; b < to; ++b) {
        const auto band = groups_.band(b);
        // The rows of x's gradient that this band writes, and the rows of the output's gradient that they
        // need.
        const auto x_begin = std::min(band.begin * shape_.stride, shape_.in_height);
        const auto x_end =
            band.last_rows ? shape_.in_height : std::min(band.end * shape_.stride, shape_.in_height);
        auto g_begin = band.begin, g_end = band.end;
        if (grad_x) {
          const auto low = x_begin + shape_.padding - (shape_.kernel - 1);
          const auto high = (x_end - 1 + shape_.padding) / shape_.stride + 1;
          g_begin = std::min(g_begin, low <= 0 ? 0 : ceil_div(low, shape_.stride));
          g_end = std::max(g_end, std::min(high, shape_.out_height));
        }
        int64_t g_readable = 0, x_readable = 0;
        const Band<const S> grad = load(band.first, band.images, g_begin, g_end, g_readable);
        if (grad_weight) {
          const auto in = input.rows(band, x_readable);
          k.depthwise_weight_grad(
              shape_, in, grad, band.images, band.begin, band.end, all_sums + chunk * sums_size,
              x_readable > 0, g_readable > 0);
        }
        for (int64_t i = 0; i < band.images && grad_x && x_begin < x_end; ++i) {
          const auto g_rows = i * shape_.out_height;
          G* out = grad_x + ((band.first + i) * shape_.in_height + x_begin) * x_row_;
          input_grad(
              {grad.data + g_rows * y_row_, grad.first}, packed.template const_data_ptr<S>(), x_begin, x_end,
              std::max<int64_t>(g_readable - g_rows, 0), out);
        }
        if (grad_x) {
          const auto pixel = (band.first * shape_.in_height + x_begin) * shape_.in_width;
          finish(
              b, pixel, band.images * (x_end - x_begin) * shape_.in_width, grad_x + pixel * shape_.channels);
        }
      }
    });
    if (grad_weight) {
      const auto lanes = k.vector;
      for (int64_t c = 0; c < shape_.channels; ++c) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          double sum = 0;
          for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            sum += all_sums[chunk * sums_size + c / lanes * lanes * taps + tap * lanes + c % lanes];
          }
          grad_weight[c * taps + tap] = static_cast<S>(sum);
        }
      }
    }
  }

  // load() for a gradient that lies in memory as it is.
  auto gradient_rows(const T* grad) const {
    return [this, grad](int64_t first, int64_t count, int64_t begin, int64_t end, int64_t& readable) {
      return rows_of(
          grad, images_, first, count, shape_.out_height, shape_.out_width, shape_.channels, nullptr, begin,
          end, Use::gradient, readable);
    };
  }

 private:
  int64_t row_values() const {
    return shape_.channels * (shape_.in_width * shape_.stride + shape_.out_width);
  }

  at::Tensor pack(const S* weight, bool flip) const {
    const auto taps = shape_.kernel * shape_.kernel;
    auto packed = values<S>({padded_ * taps});
    kernels<S>().pack_depthwise(
        weight, nullptr, shape_.channels, shape_.kernel, flip, packed.template data_ptr<S>());
    return packed;
  }

  // Rows [begin, end) of one image of x's gradient.
  template <typename G>
  void input_grad(
      Band<const S> grad, const S* packed, int64_t begin, int64_t end, int64_t readable, G* out) const {
    DepthwiseEpilogue<S> epilogue;
    epilogue.readable_rows = readable;
    epilogue.streams = std::is_same_v<G, S>;
    if constexpr (std::is_same_v<G, S>) {
      kernels<S>().depthwise(transposed(), grad, packed, {out, begin}, begin, end, epilogue);
    } else {
      auto* buffer = scratch<S>(Use::output, (end - begin) * x_row_);
      kernels<S>().depthwise(transposed(), grad, packed, {buffer, begin}, begin, end, epilogue);
      row_kernels<G, S>().store(buffer, (end - begin) * x_row_, out);
    }
  }

  // The geometry from the output's gradient to x's.
  DepthwiseShape transposed() const {
    auto t = shape_;
    t.in_height = shape_.out_height;
    t.in_width = shape_.out_width;
    t.out_height = shape_.in_height;
    t.out_width = shape_.in_width;
    t.transposed = shape_.stride > 1;
    if (!t.transposed) {
      t.padding = shape_.kernel - 1 - shape_.padding;
    }
    return t;
  }

  int64_t images_;
  DepthwiseShape shape_;
  Bands bands_, groups_; // of forward and of backward
  int64_t padded_, x_row_, y_row_;
};

} // namespace supernet::cpu
