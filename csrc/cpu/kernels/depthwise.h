// Depthwise convolution of rows: forward, and transposed for the input's gradient.
//
// A tile is TW neighbouring outputs of one vector of channels, held in registers over all k * k taps. Each
// column of the input is loaded once a row and multiplied into every output that it reaches; which, is known
// when compiling. So is which columns are outside the image, where whole tiles fill it; else tiles that stick
// out test each column, a branch per k multiplications.
#pragma once

#include "cpu/kernels/vector_ops.h"

namespace supernet::cpu::SUPERNET_ISA {

// Where things are: output t of a tile takes input column j with tap i iff out(j, i) == t.
template <int K, int S>
struct Forward {
  static constexpr int kKernel = K;
  static constexpr int kStep = 1; // every row of taps reaches every row
  static constexpr int kFreshRows = S; // input rows that each output row is the first to need
  static constexpr int columns(int tile) {
    return (tile - 1) * S + K;
  }
  static constexpr int fresh_columns(int tile) {
    return tile * S;
  }
  static constexpr int out(int j, int i) {
    return j >= i && (j - i) % S == 0 ? (j - i) / S : -1;
  }
  static int64_t first_out(const DepthwiseShape&) {
    return 0;
  }
  static int64_t first_column(const DepthwiseShape& s, int64_t out) {
    return out * S - s.padding;
  }
  static int64_t first_tap(const DepthwiseShape&, int64_t) {
    return 0;
  }
  static int64_t newest_tap(const DepthwiseShape&, int64_t) {
    return K - 1;
  }
  static int64_t row(const DepthwiseShape& s, int64_t out, int64_t tap) {
    return out * S - s.padding + tap;
  }
};

// Stride 2: out + padding = 2 in + tap, so every second row and column of taps reaches an output.
template <int K>
struct Transposed {
  static constexpr int kKernel = K, kStep = 2, kFreshRows = 1;
  static constexpr int columns(int tile) {
    return (tile + K - 2) / 2 + 1;
  }
  static constexpr int fresh_columns(int tile) {
    return tile / 2;
  }
  static constexpr int out(int j, int i) {
    return 2 * j - (K - 1) + i;
  }
  // Tiles begin where out + padding is even.
  static int64_t first_out(const DepthwiseShape& s) {
    return -(s.padding & 1);
  }
  static int64_t first_column(const DepthwiseShape& s, int64_t out) {
    return (out + s.padding - (K - 1)) / 2;
  }
  static int64_t first_tap(const DepthwiseShape& s, int64_t out) {
    return (out + s.padding) & 1;
  }
  static int64_t newest_tap(const DepthwiseShape& s, int64_t out) {
    return first_tap(s, out);
  }
  static int64_t row(const DepthwiseShape& s, int64_t out, int64_t tap) {
    return (out + s.padding - tap) / 2; // exact for the taps that are used
  }
};

// Calls f(column of the input, tap i, output t) for all that meet in one row of taps of a tile. x is column 0
// of the tile; of columns that are not inside(j) nothing is read.
template <class V, class Map, int TW, bool Tail, class Inside, class F>
SUPERNET_INLINE void for_each_meeting(
    const typename V::Scalar* x,
    int64_t pixel,
    typename V::Mask mask,
    const Inside& inside,
    const F& f) {
  constexpr int K = Map::kKernel, columns = Map::columns(TW);
  SUPERNET_UNROLL
  for (int j = 0; j < columns; ++j) {
    if (inside(j)) {
      V column = load<V, Tail>(x + j * pixel, mask);
      if constexpr (K == 3) { // of larger kernels GCC does so by itself
        in_register(column);
      }
      SUPERNET_UNROLL
      for (int i = 0; i < K; ++i) {
        const int t = Map::out(j, i);
        if (t >= 0 && t < TW) {
          f(column, i, t);
        }
      }
    }
  }
}

// Which columns of a tile are inside an image that whole tiles fill, at its left or right edge or at neither:
// known when compiling.
template <class Map, int TW, bool Left, bool Right>
struct Edges {
  static constexpr int kPadding = Map::kKernel / 2;
  constexpr bool operator()(int j) const {
    return (!Left || j >= kPadding) && (!Right || j < kPadding + Map::fresh_columns(TW));
  }
};

// Whether rows are whole tiles wide, and their input as wide as Edges takes for granted.
template <class Map>
bool whole_tiles(const DepthwiseShape& s, int64_t tile) {
  return s.out_width % tile == 0 && s.in_width == Map::fresh_columns(1) * s.out_width;
}

// One row of taps into a tile, whose sums may be of another type than what is multiplied.
template <class V, class Map, int TW, bool Tail, class Sum, class Inside>
SUPERNET_INLINE void add_taps(
    Sum (&acc)[TW],
    const typename V::Scalar* x,
    int64_t pixel,
    const Inside& inside,
    const typename V::Scalar* weight,
    typename V::Mask mask) {
  constexpr int K = Map::kKernel;
  V taps[K];
  SUPERNET_UNROLL
  for (int i = 0; i < K; ++i) {
    taps[i] = V::load(weight + i * V::kSize);
  }
  for_each_meeting<V, Map, TW, Tail>(
      x, pixel, mask, inside,
      [&](V column, int i, int t) SUPERNET_LAMBDA { acc[t] = V::fma(column, taps[i], acc[t]); });
}

template <class V, int TW>
SUPERNET_INLINE void add_moments(
    const V (&acc)[TW], int64_t low, int64_t high, bool first, typename V::Scalar* moments, int64_t padded) {
  if (first) {
    acc[0].store(moments);
    V::zero().store(moments + padded);
    V::zero().store(moments + 2 * padded);
  }
  const V shift = V::load(moments);
  V sum = V::load(moments + padded), squares = V::load(moments + 2 * padded);
  SUPERNET_UNROLL
  for (int t = 0; t < TW; ++t) {
    if (t >= low && t < high) {
      const V d = acc[t] - shift;
      sum = sum + d;
      squares = V::fma(d, d, squares);
    }
  }
  sum.store(moments + padded);
  squares.store(moments + 2 * padded);
}

// Rows of taps that meet the image: begin, begin + step, … < end.
struct Taps {
  int64_t begin, end;
};

template <class Map>
Taps taps_inside(const DepthwiseShape& s, int64_t out_row) {
  const auto inside = [&](int64_t tap) {
    const auto row = Map::row(s, out_row, tap);
    return row >= 0 && row < s.in_height;
  };
  auto begin = Map::first_tap(s, out_row);
  while (begin < Map::kKernel && !inside(begin)) {
    begin += Map::kStep;
  }
  auto end = begin;
  while (end < Map::kKernel && inside(end)) {
    end += Map::kStep;
  }
  return {begin, end};
}

// Vectors [vector_begin, vector_end) of one row of the output.
template <class V, class Map, int TW, bool Tail>
void depthwise_row(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> in,
    const typename V::Scalar* packed,
    Band<typename V::Scalar> out,
    int64_t row,
    bool first_row,
    const DepthwiseEpilogue<typename V::Scalar>& epilogue,
    int64_t vector_begin,
    int64_t vector_end) {
  using S = typename V::Scalar;
  constexpr int K = Map::kKernel, columns = Map::columns(TW), fresh = Map::fresh_columns(TW);
  const int64_t pixel = s.channels, in_row = s.in_width * pixel, padded = padded_to<V>(s.channels);
  const auto mask = V::mask(s.channels - vector_begin * V::kSize);
  const auto taps = taps_inside<Map>(s, row);
  const bool whole = whole_tiles<Map>(s, TW);

  // While this row is computed, memory is asked for what the next one needs first, and for where it goes: in
  // the order of the addresses, which the processor's own prefetcher then follows.
  const auto newest = Map::row(s, row, Map::newest_tap(s, row));
  const bool ahead = newest >= 0 && newest + Map::kFreshRows < epilogue.readable_rows;
  const int64_t tiles = (s.out_width - Map::first_out(s) + TW - 1) / TW;
  const int64_t tiles_before = vector_begin * tiles;
  constexpr int64_t in_step = Map::kFreshRows * fresh * kLine<S>, out_step = TW * kLine<S>;
  const S* next_in = in.data + (newest + 1 - in.first) * in_row + tiles_before * in_step;
  const S* next_out = out.data + (row + 1 - out.first) * s.out_width * pixel + tiles_before * out_step;

  for (int64_t v = vector_begin; v < vector_end; ++v) {
    const S* weight = packed + v * K * K * V::kSize;
    const int64_t channel = v * V::kSize;
    const V start = epilogue.bias ? V::load(epilogue.bias + channel) : V::zero();
    for (int64_t o = Map::first_out(s); o < s.out_width; o += TW) {
      const int64_t column = Map::first_column(s, o);
      const int64_t low = -column, high = s.in_width - column;
      V acc[TW];
      SUPERNET_UNROLL
      for (int t = 0; t < TW; ++t) {
        acc[t] = start;
      }
      const auto add = [&](const auto& inside) SUPERNET_LAMBDA {
        for (int64_t tap = taps.begin; tap < taps.end; tap += Map::kStep) {
          const S* x = in.data + (Map::row(s, row, tap) - in.first) * in_row + column * pixel + channel;
          add_taps<V, Map, TW, Tail>(acc, x, pixel, inside, weight + tap * K * V::kSize, mask);
        }
      };
      const auto add_at_edge = [&] SUPERNET_LAMBDA {
        if constexpr (Map::kStep == 1) { // or whole_tiles never holds
          if (whole && o > 0) {
            return add(Edges<Map, TW, false, true>{});
          } else if (whole && TW < s.out_width) {
            return add(Edges<Map, TW, true, false>{});
          } else if (whole) {
            return add(Edges<Map, TW, true, true>{});
          }
        }
        add([&](int j) SUPERNET_LAMBDA { return j >= low && j < high; });
      };
      if (low <= 0 && high >= columns) {
        add(Edges<Map, TW, false, false>{});
      } else {
        add_at_edge();
      }
      if (ahead) {
        SUPERNET_UNROLL
        for (int j = 0; j < Map::kFreshRows * fresh; ++j) {
          prefetch(next_in + j * kLine<S>);
        }
        next_in += in_step;
      }
      if (epilogue.streams) {
        SUPERNET_UNROLL
        for (int j = 0; j < TW; ++j) {
          prefetch_to_write(next_out + j * kLine<S>);
        }
        next_out += out_step;
      }
      const int64_t t_low = -o, t_high = s.out_width - o;
      if (epilogue.moments) {
        add_moments<V, TW>(acc, t_low, t_high, first_row && o == 0, epilogue.moments + channel, padded);
      }
      if (epilogue.bias) {
        SUPERNET_UNROLL
        for (int t = 0; t < TW; ++t) {
          acc[t] = activate(epilogue.act, acc[t]);
        }
      }
      S* y = out.data + ((row - out.first) * s.out_width + o) * pixel + channel;
      SUPERNET_UNROLL
      for (int t = 0; t < TW; ++t) {
        if (t >= t_low && t < t_high) {
          store<Tail>(acc[t], y + t * pixel, mask);
        }
      }
    }
  }
}

template <class V, class Map, int TW>
void depthwise_rows(
    const DepthwiseShape& s,
    Band<const typename V::Scalar> in,
    const typename V::Scalar* packed,
    Band<typename V::Scalar> out,
    int64_t begin,
    int64_t end,
    const DepthwiseEpilogue<typename V::Scalar>& epilogue) {
  const int64_t whole = s.channels / V::kSize;
  for (int64_t row = begin; row < end; ++row) {
    depthwise_row<V, Map, TW, false>(s, in, packed, out, row, row == begin, epilogue, 0, whole);
    if (whole * V::kSize < s.channels) {
      depthwise_row<V, Map, TW, true>(s, in, packed, out, row, row == begin, epilogue, whole, whole + 1);
    }
  }
}

// The tile that computes the fewest outputs beyond the image's edge; the wider one on a tie.
template <class V, class Map, int... TW>
auto depthwise_rows_for(int64_t width) {
  decltype(&depthwise_rows<V, Map, 4>) best = nullptr;
  int64_t best_cost = 0;
  const auto consider = [&](int tile, auto function) {
    const auto cost = (width + tile - 1) / tile * tile;
    if (best == nullptr || cost < best_cost) {
      best = function;
      best_cost = cost;
    }
  };
  (consider(TW, &depthwise_rows<V, Map, TW>), ...);
  return best;
}

template <class V, int K>
auto depthwise_rows_for(const DepthwiseShape& s) {
  if (s.stride == 1) {
    return depthwise_rows_for<V, Forward<K, 1>, 8, 7, 4>(s.out_width);
  }
  if (!s.transposed) {
    return depthwise_rows_for<V, Forward<K, 2>, 8, 7, 4>(s.out_width);
  }
  return depthwise_rows_for<V, Transposed<K>, 8, 4>(s.out_width - Transposed<K>::first_out(s));
}

} // namespace supernet::cpu::SUPERNET_ISA
