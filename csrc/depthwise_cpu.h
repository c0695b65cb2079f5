// Depthwise convolutions of whole batches on the CPU: the loops over images, bands and threads around the kernels.
// float32 and float64 are computed in place, bfloat16 is widened band by band.
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

// A batch cut into bands of output rows, each small enough for the L2 cache, and the bands into chunks. Both follow
// from the sizes alone: so do, whatever the number of threads, the sums that are taken per band or chunk.
struct Bands {
  int64_t rows; // of a band
  int64_t per_image;
  int64_t count;

  // Values of one row, all that a band holds counted.
  Bands(int64_t images, int64_t out_height, int64_t row_values) {
    constexpr int64_t kValues = 256 * 1024;
    rows = std::clamp<int64_t>(kValues / row_values, 1, out_height);
    per_image = ceil_div(out_height, rows);
    rows = ceil_div(out_height, per_image);
    per_image = ceil_div(out_height, rows);
    count = images * per_image;
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

template <typename T>
class DepthwiseBatch {
 public:
  using S = Compute<T>;

  DepthwiseBatch(int64_t images, const DepthwiseShape& shape)
      : images_(images),
        shape_(shape),
        bands_(images, shape.out_height, shape.channels * (shape.in_width * shape.stride + shape.out_width)),
        padded_(round_up(shape.channels, kernels<S>().vector)),
        x_row_(shape.in_width * shape.channels),
        y_row_(shape.out_width * shape.channels) {}

  const Bands& bands() const {
    return bands_;
  }
  // Channels, rounded up to whole vectors.
  int64_t padded() const {
    return padded_;
  }

  // y; and where moments is not null, those of every band: [bands][kMoments][padded].
  void forward(const T* x, const S* weight, T* y, S* moments) const {
    const auto& k = kernels<S>();
    const auto packed = pack(weight, false);
    at::parallel_for(0, bands_.count, 1, [&](int64_t from, int64_t to) {
      for (auto b = from; b < to; ++b) {
        const auto image = b / bands_.per_image;
        const auto begin = b % bands_.per_image * bands_.rows, end = std::min(begin + bands_.rows, shape_.out_height);
        DepthwiseEpilogue<S> epilogue;
        epilogue.streams = std::is_same_v<T, S>;
        epilogue.moments = moments ? moments + b * kMoments * padded_ : nullptr;
        const auto in = input_rows(x, image, begin, end, epilogue.readable_rows);
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

  // The gradients of x and of the weight ([channels, k * k]), where not null. load(image, begin, end, readable)
  // gives rows of the output's gradient as S, in a buffer that outlives the band (Use::gradient).
  template <class Load>
  void backward(const Load& load, const T* x, const S* weight, T* grad_x, S* grad_weight) const {
    const auto& k = kernels<S>();
    const auto taps = shape_.kernel * shape_.kernel;
    const auto backward_shape = transposed();
    const auto packed = grad_x ? pack(weight, !backward_shape.transposed) : at::Tensor();
    // Sums of a chunk stay in the cache; together they stay small beside the images.
    const auto sums_size = padded_ * taps;
    const auto chunks = std::min(bands_.count, std::clamp<int64_t>(512 * 1024 / sums_size, 8, 32));
    const auto sums = at::zeros({chunks, sums_size}, values<S>({0}).options());
    auto* all_sums = sums.template data_ptr<S>();

    parallel_chunks(bands_.count, chunks, [&](int64_t chunk, int64_t from, int64_t to) {
      for (auto b = from; b < to; ++b) {
        const auto image = b / bands_.per_image, band = b % bands_.per_image;
        const auto begin = band * bands_.rows, end = std::min(begin + bands_.rows, shape_.out_height);
        // The rows of x's gradient that this band writes, and the rows of the output's gradient that they need.
        const auto x_begin = std::min(begin * shape_.stride, shape_.in_height);
        const auto x_end =
            band + 1 == bands_.per_image ? shape_.in_height : std::min(end * shape_.stride, shape_.in_height);
        auto g_begin = begin, g_end = end;
        if (grad_x) {
          const auto low = x_begin + shape_.padding - (shape_.kernel - 1);
          g_begin = std::min(begin, low <= 0 ? 0 : ceil_div(low, shape_.stride));
          g_end = std::max(end, std::min((x_end - 1 + shape_.padding) / shape_.stride + 1, shape_.out_height));
        }
        int64_t g_readable = 0, x_readable = 0;
        const Band<const S> grad = load(image, g_begin, g_end, g_readable);
        if (grad_weight) {
          const auto in = input_rows(x, image, begin, end, x_readable);
          k.depthwise_weight_grad(
              shape_, in, grad, begin, end, all_sums + chunk * sums_size, x_readable > 0, g_readable > 0);
        }
        if (grad_x && x_begin < x_end) {
          DepthwiseEpilogue<S> epilogue;
          epilogue.readable_rows = g_readable;
          epilogue.streams = std::is_same_v<T, S>;
          T* out = grad_x + (image * shape_.in_height + x_begin) * x_row_;
          const auto* w = packed.template const_data_ptr<S>();
          if constexpr (std::is_same_v<T, S>) {
            k.depthwise(backward_shape, grad, w, {out, x_begin}, x_begin, x_end, epilogue);
          } else {
            auto* buffer = scratch<S>(Use::output, (x_end - x_begin) * x_row_);
            k.depthwise(backward_shape, grad, w, {buffer, x_begin}, x_begin, x_end, epilogue);
            row_kernels<T, S>().store(buffer, (x_end - x_begin) * x_row_, out);
          }
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
    return [this, grad](int64_t image, int64_t begin, int64_t end, int64_t& readable) {
      return rows_of(grad, image, shape_.out_height, y_row_, begin, end, readable, Use::gradient);
    };
  }

 private:
  at::Tensor pack(const S* weight, bool flip) const {
    const auto taps = shape_.kernel * shape_.kernel;
    auto packed = values<S>({padded_ * taps});
    kernels<S>().pack_depthwise(
        weight, nullptr, shape_.channels, shape_.kernel, flip, packed.template data_ptr<S>());
    return packed;
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

  // The rows of x that output rows [begin, end) meet.
  Band<const S> input_rows(const T* x, int64_t image, int64_t begin, int64_t end, int64_t& readable) const {
    const auto first = std::clamp<int64_t>(begin * shape_.stride - shape_.padding, 0, shape_.in_height);
    const auto last = std::clamp<int64_t>(
        (end - 1) * shape_.stride - shape_.padding + shape_.kernel, first, shape_.in_height);
    return rows_of(x, image, shape_.in_height, x_row_, first, last, readable, Use::input);
  }

  Band<const S> rows_of(
      const T* data, int64_t image, int64_t height, int64_t row, int64_t begin, int64_t end, int64_t& readable,
      Use use) const {
    const T* at = data + image * height * row;
    if constexpr (std::is_same_v<T, S>) {
      readable = (images_ - image) * height;
      return {at, 0};
    } else {
      auto* buffer = scratch<S>(use, (end - begin) * row);
      row_kernels<T, S>().load(at + begin * row, (end - begin) * row, buffer);
      readable = 0;
      return {buffer, begin};
    }
  }

  int64_t images_;
  DepthwiseShape shape_;
  Bands bands_;
  int64_t padded_, x_row_, y_row_;
};

} // namespace supernet::cpu
