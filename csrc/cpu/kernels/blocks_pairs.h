// Blocks of pairs, each a value and that below it, which one instruction multiplies by two taps: the kernels
// of BlockKernels for AVX-512-bf16.
//
// Pair m of an image holds rows 2 m - padding and the next one, zeros where these are outside. An output row
// meets half as many pairs as it has rows of taps, rounded up. At stride 1 two neighbouring ones, the first
// of an even number, meet the same pairs, the upper one with taps (0, 1), (2, 3), …, the lower one with
// (nothing, 0), (1, 2), … "Nothing" multiplies by zero, so that what is not a number spoils one row more than
// those that read it.
#pragma once

#include "cpu/kernels/dot.h"
// behind the products
#include "cpu/kernels/blocks.h"

namespace supernet::cpu::SUPERNET_ISA {

struct PairVec {
  using Scalar = BFloat16;
  using Mask = __mmask32;
  static constexpr int kSize = 32;

  __m512i v;

  static Mask mask(int64_t) {
    return ~Mask(0);
  }
  static PairVec load(const BFloat16* p) {
    return {_mm512_loadu_si512(p)};
  }
  static PairVec load(const BFloat16* p, Mask) {
    return load(p);
  }
  // The sum of both products, and c.
  static FloatVec fma(PairVec a, PairVec b, FloatVec c) {
    return {_mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
  }
  // Of 16 values and the 16 below them.
  static __m512i interleave(__m512i halves) {
    const auto index = _mm512_add_epi32(
        _mm512_set1_epi32(16 << 16),
        _mm512_mullo_epi32(
            _mm512_set1_epi32(0x10001), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    return _mm512_permutexvar_epi16(index, halves);
  }
};

// Pairs that output rows [begin, end) meet.
inline Rows pairs_met(const DepthwiseShape& s, int64_t begin, int64_t end) {
  return s.stride == 1 ? Rows{begin / 2, (end - 1) / 2 + s.kernel / 2 + 1} : Rows{begin, end + s.kernel / 2};
}

// Those of them that hold a row of the image.
inline Rows pairs_inside(const DepthwiseShape& s, Rows pairs) {
  return {
      std::max(pairs.begin, s.padding / 2), std::min(pairs.end, (s.in_height - 1 + s.padding) / 2 + 1)};
}

inline Rows rows_read(const DepthwiseShape& s, int64_t begin, int64_t end) {
  const auto pairs = pairs_inside(s, pairs_met(s, begin, end));
  return {
      std::max<int64_t>(2 * pairs.begin - s.padding, 0), std::min(2 * pairs.end - s.padding, s.in_height)};
}

inline int64_t block_bytes(const DepthwiseShape& s, int64_t begin, int64_t end) {
  const auto pairs = pairs_met(s, begin, end);
  return (pairs.end - pairs.begin) * s.in_width * BlockKernels::kPixelBytes;
}

// The taps of upper rows, then those of lower ones.
constexpr int64_t pairs_of_taps(int64_t kernel) {
  return (kernel + 1) / 2;
}

inline int64_t taps_bytes(int64_t kernel) {
  return 2 * pairs_of_taps(kernel) * kernel * BlockKernels::kPixelBytes;
}

inline void pack_taps(const float* taps, int64_t blocks, int64_t kernel, void* packed) {
  using V = FloatVec;
  auto* out = static_cast<BFloat16*>(packed);
  for (int64_t b = 0; b < blocks; ++b, taps += kernel * kernel * V::kSize) {
    const auto tap = [&](int64_t row, int64_t column) {
      return row >= 0 && row < kernel ? V::load(taps + (row * kernel + column) * V::kSize) : V::zero();
    };
    for (int64_t lower = 0; lower < 2; ++lower) {
      for (int64_t row = -lower; row < kernel; row += 2) {
        for (int64_t column = 0; column < kernel; ++column, out += PairVec::kSize) {
          _mm512_storeu_si512(out, PairVec::interleave(V::pair(tap(row, column), tap(row + 1, column))));
        }
      }
    }
  }
}

inline void widen_block(
    const DepthwiseShape& s, const BFloat16* x, int64_t begin, int64_t end, int64_t lanes, void* block) {
  const auto mask = FloatVec::mask(lanes);
  const auto met = pairs_met(s, begin, end), pairs = pairs_inside(s, met);
  const auto row = s.in_width * s.channels;
  const auto values = [&](const BFloat16* p, bool inside) SUPERNET_LAMBDA {
    return _mm256_maskz_loadu_epi16(inside ? mask : 0, p);
  };
  auto* y = static_cast<BFloat16*>(block) + (pairs.begin - met.begin) * s.in_width * PairVec::kSize;
  for (auto m = pairs.begin; m < pairs.end; ++m) {
    const auto first = 2 * m - s.padding;
    const bool upper = first >= 0, lower = first + 1 < s.in_height;
    const auto* above = x + std::max<int64_t>(first, 0) * row;
    const auto* below = x + std::min(first + 1, s.in_height - 1) * row;
    for (int64_t i = 0; i < s.in_width; ++i, above += s.channels, below += s.channels, y += PairVec::kSize) {
      const auto halves = _mm512_inserti64x4(
          _mm512_castsi256_si512(values(above, upper)), values(below, lower), 1);
      _mm512_store_si512(y, PairVec::interleave(halves));
    }
  }
}

// Some columns of a pair of rows, `other` apart, or of one row, whose pairs are filled up with zeros above or
// below.
enum class Half { none, above, below };

template <int Columns, Half Zeros, Activation Act>
SUPERNET_INLINE void expand_columns(
    const BFloat16* x, int64_t other, int64_t depth, const BFloat16* packed, int64_t lanes, const float* bias,
    BFloat16* low_block, BFloat16* high_block) {
  using V = FloatVec;
  constexpr int kRows = Zeros == Half::none ? 2 : 1;
  const auto run = [&](auto tiles) SUPERNET_LAMBDA {
    constexpr int kTiles = decltype(tiles)::value;
    V sums[kRows * Columns][kTiles];
    multiply_pairs<kRows, Columns, kTiles>(x, other, depth, packed, bias, sums);
    SUPERNET_UNROLL
    for (int i = 0; i < Columns; ++i) {
      SUPERNET_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const V one = activate(Act, sums[i][t]);
        const V two = Zeros == Half::none ? activate(Act, sums[(kRows - 1) * Columns + i][t]) : V::zero();
        const auto halves = Zeros == Half::above ? V::pair(two, one) : V::pair(one, two);
        _mm512_store_si512((t ? high_block : low_block) + i * PairVec::kSize, PairVec::interleave(halves));
      }
    }
  };
  if (lanes > V::kSize) {
    run(std::integral_constant<int, 2>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

template <int Columns, Activation Act>
void expand_images(
    const DepthwiseShape& s, Band<const BFloat16> x, int64_t images, int64_t begin, int64_t end, int64_t depth,
    const BFloat16* packed, int64_t lanes, const float* bias, BFloat16* block, int64_t high) {
  const auto met = pairs_met(s, begin, end), pairs = pairs_inside(s, met);
  const auto row = s.in_width * depth;
  const auto image = block_bytes(s, begin, end) / static_cast<int64_t>(sizeof(BFloat16));
  for (int64_t j = 0; j < images; ++j) {
    for (auto m = pairs.begin; m < pairs.end; ++m) {
      const auto first = 2 * m - s.padding;
      const auto upper = std::max<int64_t>(first, 0);
      const auto* from = x.data + (j * s.in_height + upper - x.first) * row;
      auto* y = block + j * image + (m - met.begin) * s.in_width * PairVec::kSize;
      const auto each = [&](auto zeros) SUPERNET_LAMBDA {
        constexpr auto kZeros = decltype(zeros)::value;
        for (int64_t i = 0; i < s.in_width; i += Columns) {
          auto* to = y + i * PairVec::kSize;
          expand_columns<Columns, kZeros, Act>(from + i * depth, row, depth, packed, lanes, bias, to, to + high);
        }
      };
      if (first < 0) {
        each(std::integral_constant<Half, Half::above>{});
      } else if (first + 1 >= s.in_height) {
        each(std::integral_constant<Half, Half::below>{});
      } else {
        each(std::integral_constant<Half, Half::none>{});
      }
    }
  }
}

inline void expand_blocks(
    const DepthwiseShape& s, Band<const BFloat16> x, int64_t images, int64_t begin, int64_t end, int64_t depth,
    const BFloat16* packed, int64_t lanes, const float* bias, Activation act, void* blocks, int64_t block_stride) {
  with_activation(act, [&](auto activation) {
    constexpr auto kAct = decltype(activation)::value;
    const auto function = s.in_width % 7 == 0 ? &expand_images<7, kAct> : &expand_images<4, kAct>;
    function(
        s, x, images, begin, end, depth, packed, lanes, bias, static_cast<BFloat16*>(blocks),
        block_stride / static_cast<int64_t>(sizeof(BFloat16)));
  });
}

template <int K>
Meeting<PairVec> meeting(const BlockCall<PairVec>& call, int64_t row, bool lower) {
  const auto& s = call.shape;
  const auto met = pairs_met(s, row, row + 1), pairs = pairs_inside(s, met);
  const auto before = pairs.begin - met.begin + (lower ? pairs_of_taps(K) : 0);
  return {call.row(pairs.begin), call.taps + before * K * PairVec::kSize, pairs.end - pairs.begin};
}

template <int K, int TW, bool Whole>
void block_two_rows(const BlockCall<PairVec>& call, int64_t row) {
  using Map = Forward<K, 1>;
  const auto& s = call.shape;
  const auto met = meeting<K>(call, row, false);
  const auto start = FloatVec::load(call.bias);
  for_each_tile<Map, TW, Whole>(s, [&](int64_t o, const auto& inside) SUPERNET_LAMBDA {
    FloatVec upper[TW], lower[TW];
    SUPERNET_UNROLL
    for (int t = 0; t < TW; ++t) {
      upper[t] = lower[t] = start;
    }
    for (int64_t i = 0; i < met.count; ++i) {
      const auto* x = met.rows + (i * s.in_width + Map::first_column(s, o)) * PairVec::kSize;
      const auto* weight = met.taps + i * K * PairVec::kSize;
      add_taps_inside<PairVec, Map>(
          upper, lower, x, weight, weight + pairs_of_taps(K) * K * PairVec::kSize, inside);
    }
    fetch<Map, 2 * TW>(call.ahead);
    const auto left = s.out_width - o, at = o * call.out_pixel;
    store_outputs(upper, call.act, left, call.out_row(row) + at, call.out_pixel);
    store_outputs(lower, call.act, left, call.out_row(row + 1) + at, call.out_pixel);
  });
}

template <int K>
auto block_two_rows_for(const DepthwiseShape& s) {
  return whole_tiles<Forward<K, 1>>(s, 7) ? &block_two_rows<K, 7, true>
      : whole_tiles<Forward<K, 1>>(s, 8)  ? &block_two_rows<K, 8, true>
      : s.out_width % 8 > 4               ? &block_two_rows<K, 8, false>
                                          : &block_two_rows<K, 4, false>;
}

template <int K, int S, class In>
void block_rows(const BlockCall<In>& call, int64_t begin, int64_t end) {
  const auto one = block_row_for<PairVec, Forward<K, S>>(call.shape);
  for (auto row = begin; row < end; ++row) {
    const bool odd = S == 1 && row % 2 == 1;
    if constexpr (S == 1) {
      if (!odd && row + 1 < end) {
        block_two_rows_for<K>(call.shape)(call, row++);
        continue;
      }
    }
    one(call, meeting<K>(call, row, odd), call.out_row(row));
  }
}

inline int64_t first_of_block(const DepthwiseShape& s, int64_t begin, int64_t end) {
  return pairs_met(s, begin, end).begin;
}

} // namespace supernet::cpu::SUPERNET_ISA
