// Depthwise convolution of any kernel and stride: one output at a time. And the order of packed weights.
#pragma once

#include "cpu/kernels/depthwise_grad.h"

namespace supernet::cpu::SUPERNET_ISA {

// The input index that `out` meets at `tap`, or -1.
inline int64_t input_index(const DepthwiseShape& s, int64_t out, int64_t tap, int64_t size) {
  int64_t in = out * s.stride - s.padding + tap;
  if (s.transposed) {
    const auto scaled = out + s.padding - tap;
    in = scaled % s.stride == 0 ? scaled / s.stride : -1;
  }
  return in < size ? in : -1;
}

template <class V>
void depthwise_any(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> in,
    const typename V::Scalar* packed,
    Band<typename V::Scalar> out,
    int64_t begin,
    int64_t end,
    const DepthwiseEpilogue<typename V::Scalar>& epilogue) {
  const int64_t k = s.kernel, pixel = s.channels, padded = padded_to<V>(s.channels);
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t o = 0; o < s.out_width; ++o) {
      for (int64_t c = 0; c < s.channels; c += V::kSize) {
        const auto mask = V::mask(s.channels - c);
        V acc[1] = {epilogue.bias ? V::load(epilogue.bias + c) : V::zero()};
        for (int64_t i = 0; i < k; ++i) {
          const auto in_row = input_index(s, row, i, s.in_height);
          for (int64_t j = 0; in_row >= 0 && j < k; ++j) {
            const auto column = input_index(s, o, j, s.in_width);
            if (column >= 0) {
              const auto* x = in.data + ((in_row - in.first) * s.in_width + column) * pixel + c;
              acc[0] = V::fma(V::load(x, mask), V::load(packed + c * k * k + (i * k + j) * V::kSize), acc[0]);
            }
          }
        }
        if (epilogue.moments) {
          add_moments<V, 1>(acc, 0, 1, row == begin && o == 0, epilogue.moments + c, padded);
        }
        if (epilogue.bias) {
          acc[0] = activate(epilogue.act, acc[0]);
        }
        acc[0].store(out.data + ((row - out.first) * s.out_width + o) * pixel + c, mask);
      }
    }
  }
}

template <class V>
void weight_grad_any(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> x,
    Band<const typename V::Scalar> grad,
    int64_t images,
    int64_t begin,
    int64_t end,
    typename V::Scalar* sums,
    bool,
    bool) {
  const int64_t k = s.kernel, pixel = s.channels;
  const int64_t image = s.in_height * s.in_width * pixel, grad_image = s.out_height * s.out_width * pixel;
  for (int64_t c = 0; c < s.channels; c += V::kSize) {
    const auto mask = V::mask(s.channels - c);
    for (int64_t tap = 0; tap < k * k; ++tap) {
      V acc = V::zero();
      for (int64_t i = 0; i < images * (end - begin); ++i) {
        const auto row = begin + i % (end - begin), n = i / (end - begin);
        const auto in_row = input_index(s, row, tap / k, s.in_height);
        for (int64_t o = 0; in_row >= 0 && o < s.out_width; ++o) {
          const auto column = input_index(s, o, tap % k, s.in_width);
          if (column >= 0) {
            const auto* g = grad.data + n * grad_image + ((row - grad.first) * s.out_width + o) * pixel + c;
            const auto* value = x.data + n * image + ((in_row - x.first) * s.in_width + column) * pixel + c;
            acc = V::fma(V::load(value, mask), V::load(g, mask), acc);
          }
        }
      }
      auto* sum = sums + c * k * k + tap * V::kSize;
      (V::load(sum) + acc).store(sum);
    }
  }
}

template <class V>
void pack_depthwise(
    const typename V::Scalar* weight,
    const typename V::Scalar* scale,
    int64_t channels,
    int64_t kernel,
    bool flip,
    typename V::Scalar* packed) {
  const int64_t taps = kernel * kernel;
  for (int64_t c = 0; c < padded_to<V>(channels); ++c) {
    auto* out = packed + c / V::kSize * V::kSize * taps + c % V::kSize;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const auto value = c < channels ? weight[c * taps + (flip ? taps - 1 - tap : tap)] : 0;
      out[tap * V::kSize] = c < channels && scale ? value * scale[c] : value;
    }
  }
}

template <class V>
void depthwise(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> in,
    const typename V::Scalar* packed,
    Band<typename V::Scalar> out,
    int64_t begin,
    int64_t end,
    const DepthwiseEpilogue<typename V::Scalar>& epilogue) {
  auto function = &depthwise_any<V>;
  if constexpr (V::kTiled) {
    if (s.stride <= 2) {
      function = s.kernel == 3 ? depthwise_rows_for<V, 3>(s)
          : s.kernel == 5      ? depthwise_rows_for<V, 5>(s)
          : s.kernel == 7      ? depthwise_rows_for<V, 7>(s)
                               : function;
    }
  }
  function(s, in, packed, out, begin, end, epilogue);
}

template <class V, int K>
auto weight_grad_for(const DepthwiseShape& s) {
  return s.stride == 1 ? weight_grad_rows_for<V, K, 1>(s.out_width)
                       : weight_grad_rows_for<V, K, 2>(s.out_width);
}

template <class V>
void depthwise_weight_grad(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> x,
    Band<const typename V::Scalar> grad,
    int64_t images,
    int64_t begin,
    int64_t end,
    typename V::Scalar* sums,
    bool x_streams,
    bool grad_streams) {
  auto function = &weight_grad_any<V>;
  if constexpr (V::kTiled) {
    if (s.stride <= 2) {
      function = s.kernel == 3 ? weight_grad_for<V, 3>(s)
          : s.kernel == 5      ? weight_grad_for<V, 5>(s)
          : s.kernel == 7      ? weight_grad_for<V, 7>(s)
                               : function;
    }
  }
  function(s, x, grad, images, begin, end, sums, x_streams, grad_streams);
}

} // namespace supernet::cpu::SUPERNET_ISA
