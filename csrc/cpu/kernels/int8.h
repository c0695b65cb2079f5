// The kernels of Int8Kernels over vectors of quads: V::fma(a, b, sum) adds to each lane of `sum` four products of
// unsigned bytes of `a` and signed ones of `b`.
#pragma once

#include <cstring>

#include "cpu/int8_kernels.h"
// behind the vectors
#include "cpu/kernels/matmul.h"

namespace supernet::cpu::SUPERNET_ISA {

// Two vectors of reals to bytes. NaN is the least.
template <class V>
SUPERNET_INLINE typename V::Bytes rounded(typename V::Floats a, typename V::Floats b, const Rounding& to) {
  const auto high = V::Floats::set(to.high);
  return V::narrow(
      V::rounded(V::Floats::min(high, a)), V::rounded(V::Floats::min(high, b)), to.zero, to.flip);
}

// A row's sums as values, the first `lanes` of them.
template <class V, int NV>
SUPERNET_INLINE void store_values(
    const V (&sums)[NV], const Requantisation& requantisation, const Addition* add, int64_t at, int64_t lanes,
    uint8_t* y) {
  using F = typename V::Floats;
  F reals[NV];
  SUPERNET_UNROLL
  for (int v = 0; v < NV; ++v) {
    reals[v] = sums[v].floats() * F::load(requantisation.scale + v * V::kSize);
    if (add) {
      const auto high = F::set(requantisation.to.high), low = F::set(requantisation.to.high - 255);
      const V q = V::rounded(F::min(high, F::max(reals[v], low)));
      const V x = V::load_bytes(add->x + at + v * V::kSize, lanes - v * V::kSize) ^ V::set(add->flip);
      const F own = q.floats() * F::set(add->q_factor);
      reals[v] = own + (x - V::set(add->x_zero)).floats() * F::set(add->x_factor);
    }
  }
  rounded<V>(reals[0], reals[NV - 1], add ? add->to : requantisation.to).store(y + at, lanes);
}

// Of a panel whose steps of the depth are `lanes` quads apart.
template <class V, int NV>
void multiply_tile(
    const int32_t* a, int64_t rows, int64_t depth, const int32_t* packed, int64_t panel, int64_t columns,
    Requantisation requantisation, const Addition* add, int64_t at, uint8_t* y, int64_t y_pixel) {
  constexpr int kRows = V::kTileRows[NV - 1];
  V sums[kRows][NV];
  SUPERNET_UNROLL
  for (int v = 0; v < NV; ++v) {
    const V start = V::load(requantisation.bias + v * V::kSize);
    SUPERNET_UNROLL
    for (int i = 0; i < kRows; ++i) {
      sums[i][v] = start;
    }
  }
  if (rows >= kRows) {
    multiply<V, NV, kRows, true>(sums, a, depth, 1, packed, panel, depth, rows);
  } else {
    multiply<V, NV, kRows, false>(sums, a, depth, 1, packed, panel, depth, rows);
  }
  SUPERNET_UNROLL
  for (int i = 0; i < kRows; ++i) {
    if (i < rows) {
      store_values<V, NV>(sums[i], requantisation, add, at + i * y_pixel, columns, y);
    }
  }
}

template <class V>
void multiply_quads(
    const uint8_t* x, int64_t pixels, int64_t depth, const int8_t* packed, int64_t columns, const Requantisation& of,
    const Addition* add, uint8_t* y, int64_t y_pixel) {
  constexpr auto kPanel = Int8Kernels::kPanel, kBlock = Int8Kernels::kBlock;
  constexpr int64_t kRows = V::kTileRows[1];
  const auto* a = reinterpret_cast<const int32_t*>(x);
  const auto* b = reinterpret_cast<const int32_t*>(packed);
  const auto steps = depth / 4;
  for (int64_t i = 0; i < pixels; i += kRows) {
    for (int64_t j = 0; j < columns;) {
      const auto first = j / kPanel * kPanel, panel = columns - first > kBlock ? kPanel : kBlock;
      const auto* from = b + first * steps + j - first;
      const auto left = columns - j;
      const Requantisation part{of.bias + j, of.scale + j, of.to};
      const auto tile = left > V::kSize ? &multiply_tile<V, 2> : &multiply_tile<V, 1>;
      tile(a + i * steps, std::min(pixels - i, kRows), steps, from, panel, left, part, add, i * y_pixel + j, y, y_pixel);
      j += left > V::kSize ? 2 * V::kSize : V::kSize;
    }
  }
}

template <class V>
void pack_quads(
    const int8_t* weight, int64_t inputs, int64_t depth, int64_t columns, int8_t* packed, int32_t* sums) {
  constexpr auto kPanel = Int8Kernels::kPanel, kBlock = Int8Kernels::kBlock;
  const V ones = V::set(0x01010101);
  const auto padded = (columns + kBlock - 1) / kBlock * kBlock, steps = depth / 4;
  for (int64_t j = 0; j < padded; j += V::kSize) {
    const auto first = j / kPanel * kPanel, panel = columns - first > kBlock ? kPanel : kBlock;
    auto* out = reinterpret_cast<int32_t*>(packed) + first * steps + j - first;
    const auto* rows = weight + j * inputs;
    const auto lanes = std::min<int64_t>(V::kSize, columns - j);
    V sum = V::set(0);
    for (int64_t k = 0; k < depth; k += 4, out += panel) {
      V quads;
      if (lanes == V::kSize && k + 4 <= inputs) {
        quads = V::gather(rows + k, inputs);
      } else {
        int32_t some[V::kSize] = {};
        for (int64_t i = 0; i < lanes && k < inputs; ++i) {
          std::memcpy(some + i, rows + i * inputs + k, std::min<int64_t>(inputs - k, 4));
        }
        quads = V::load(some);
      }
      quads.store(out);
      sum = V::fma(ones, quads, sum);
    }
    sum.store(sums + j);
  }
}

inline void pad_pixels(
    const uint8_t* x, int64_t pixels, int64_t channels, int64_t depth, uint8_t flip, uint8_t* y) {
  if (channels == depth) {
    pixels *= channels, channels = pixels, depth = pixels, pixels = 1; // one run
  }
  for (int64_t i = 0; i < pixels; ++i, x += channels, y += depth) {
    for (int64_t c = 0; c < channels; ++c) {
      y[c] = x[c] ^ flip;
    }
  }
}

template <class V>
void quads_of_row(
    const uint8_t* row, int64_t width, int64_t pixel, int64_t lanes, uint8_t flip, int64_t padding, uint8_t fill,
    int64_t columns, int32_t* out) {
  constexpr auto kBlock = Int8Kernels::kBlock;
  constexpr int kParts = kBlock / V::kSize;
  const V outside = V::set(fill ^ flip), turned = V::set(flip << 24);
  V quads[kParts];
  for (auto& q : quads) {
    q = V::set(0);
  }
  const auto push = [&](auto stores, int64_t i, const auto& value) SUPERNET_LAMBDA {
    SUPERNET_UNROLL
    for (int part = 0; part < kParts; ++part) {
      quads[part] = V::push(quads[part], value(part), turned);
      if constexpr (decltype(stores)::value) {
        quads[part].store(out + (i + padding - 3) * kBlock + part * V::kSize);
      }
    }
  };
  const auto fill_up = [&](auto stores, int64_t from, int64_t until) SUPERNET_LAMBDA {
    for (auto i = from; i < until; ++i) {
      push(stores, i, [&](int) SUPERNET_LAMBDA { return outside; });
    }
  };
  const auto copy = [&](auto stores, int64_t from, int64_t until) SUPERNET_LAMBDA {
    for (auto i = from; i < until; ++i) {
      const uint8_t* p = row + i * pixel;
      uint8_t few[kBlock];
      if (lanes < kBlock) {
        std::memcpy(few, p, lanes);
        std::memset(few + lanes, 0, kBlock - lanes);
        p = few;
      }
      push(stores, i, [&](int part) SUPERNET_LAMBDA { return V::load_bytes(p + part * V::kSize); });
    }
  };
  // The first column is whole with pixel `whole`, the last one with that before `end`.
  const auto whole = 3 - padding, end = columns + whole, inside = std::min(width, end);
  fill_up(std::false_type(), -padding, 0);
  copy(std::false_type(), 0, std::min(whole, inside));
  copy(std::true_type(), whole, inside);
  fill_up(std::false_type(), inside, std::min(whole, end));
  fill_up(std::true_type(), std::max(whole, inside), end);
}

template <class V, int TW, int K>
void depthwise_quads_row(
    const int32_t* const* rows, int64_t stride, const uint32_t* taps, Requantisation requantisation, int64_t width, uint8_t* y,
    int64_t y_pixel) {
  using F = typename V::Floats;
  constexpr auto kBlock = Int8Kernels::kBlock;
  constexpr int kQuads = (K + 3) / 4;
  const auto* weights = reinterpret_cast<const int32_t*>(taps);
  for (int part = 0; part < kBlock; part += V::kSize) {
    const V start = V::load(requantisation.bias + part);
    const F scale = F::load(requantisation.scale + part);
    const auto tile = [&](auto whole, int64_t o) SUPERNET_LAMBDA {
      V sums[TW];
      SUPERNET_UNROLL
      for (int t = 0; t < TW; ++t) {
        sums[t] = start;
      }
      SUPERNET_UNROLL
      for (int i = 0; i < K; ++i) {
        const auto* x = rows[i] + o * stride * kBlock + part;
        SUPERNET_UNROLL
        for (int quad = 0; quad < kQuads; ++quad) {
          const V tap = V::load(weights + (i * kQuads + quad) * kBlock + part);
          SUPERNET_UNROLL
          for (int t = 0; t < TW; ++t) {
            sums[t] = V::fma(V::load(x + (t * stride + 4 * quad) * kBlock), tap, sums[t]);
          }
        }
      }
      auto* out = y + o * y_pixel + part;
      SUPERNET_UNROLL
      for (int t = 0; t < TW; t += 2) {
        if (decltype(whole)::value || o + t < width) {
          const int next = t + 1 < TW && (decltype(whole)::value || o + t + 1 < width) ? t + 1 : t;
          rounded<V>(sums[t].floats() * scale, sums[t + 1 < TW ? t + 1 : t].floats() * scale, requantisation.to)
              .store_halves(out + t * y_pixel, out + next * y_pixel);
        }
      }
    };
    int64_t o = 0;
    for (; o + TW <= width; o += TW) {
      tile(std::true_type(), o);
    }
    if (o < width) {
      tile(std::false_type(), o);
    }
  }
}

template <class V, int TW>
auto depthwise_quads_row_for(int64_t kernel) {
  return kernel == 1 ? &depthwise_quads_row<V, TW, 1>
      : kernel == 3  ? &depthwise_quads_row<V, TW, 3>
      : kernel == 5  ? &depthwise_quads_row<V, TW, 5>
                     : &depthwise_quads_row<V, TW, 7>;
}

template <class V>
void depthwise_quads(
    const int32_t* const* rows, int64_t kernel, int64_t stride, const uint32_t* taps, const Requantisation& to,
    int64_t width, uint8_t* y, int64_t y_pixel) {
  const auto row = width % 7 == 0 ? depthwise_quads_row_for<V, 7>(kernel) : depthwise_quads_row_for<V, 8>(kernel);
  row(rows, stride, taps, to, width, y, y_pixel);
}

inline void look_up(const uint8_t* table, int64_t n, uint8_t* values) {
  for (int64_t i = 0; i < n; ++i) {
    values[i] = table[values[i]];
  }
}

template <class V>
constexpr Int8Kernels make_int8_kernels(decltype(Int8Kernels::look_up) look_up_fastest = &look_up) {
  return {4, &pad_pixels, &pack_quads<V>, &multiply_quads<V>, &quads_of_row<V>, &depthwise_quads<V>, look_up_fastest};
}

} // namespace supernet::cpu::SUPERNET_ISA
