// Matrix products with a small, packed right side: the pointwise convolutions.
//
// A tile of the product stays in registers over the whole depth: per step NV vectors of B are loaded and one
// value of A per row is broadcast. Rows beyond the end are computed from whatever A holds and not stored.
#pragma once

#include "cpu/kernels/vector_ops.h"

namespace supernet::cpu::SUPERNET_ISA {

// Vectors in the next panel of B when `left` are left: 3 once if their number is odd, else 2.
inline int64_t panel_vectors(int64_t left) {
  return left % 2 == 1 && left >= 3 ? 3 : std::min<int64_t>(left, 2);
}

// acc += A B. A's value (row i, step k) is a[i * a_row + k * a_step]; B's vectors at b + k * b_step. Of a
// tile that is not Whole only the first `rows` rows are read and computed.
template <class V, int NV, int Rows, bool Whole>
SUPERNET_INLINE void multiply(
    V (&acc)[Rows][NV],
    const typename V::Scalar* a,
    int64_t a_row,
    int64_t a_step,
    const typename V::Scalar* b,
    int64_t b_step,
    int64_t depth,
    int64_t rows) {
  for (int64_t k = 0; k < depth; ++k) {
    V row[NV];
    SUPERNET_UNROLL
    for (int v = 0; v < NV; ++v) {
      row[v] = V::load(b + k * b_step + v * V::kSize);
    }
    SUPERNET_UNROLL
    for (int i = 0; i < Rows; ++i) {
      if (Whole || i < rows) {
        const V value = V::set(a[i * a_row + k * a_step]);
        SUPERNET_UNROLL
        for (int v = 0; v < NV; ++v) {
          acc[i][v] = V::fma(value, row[v], acc[i][v]);
        }
      }
    }
  }
}

template <class V, int NV>
void matmul_tile(
    const typename V::Scalar* a,
    int64_t rows,
    int64_t depth,
    const typename V::Scalar* packed,
    const typename V::Scalar* bias,
    Activation act,
    const typename V::Scalar* residual,
    typename V::Scalar* c,
    int64_t c_row,
    int64_t columns) {
  constexpr int kRows = V::kTileRows[NV - 1];
  V acc[kRows][NV];
  SUPERNET_UNROLL
  for (int v = 0; v < NV; ++v) {
    const V start = bias ? V::load(bias + v * V::kSize) : V::zero();
    SUPERNET_UNROLL
    for (int i = 0; i < kRows; ++i) {
      acc[i][v] = start;
    }
  }
  if (rows >= kRows) {
    multiply<V, NV, kRows, true>(acc, a, depth, 1, packed, NV * V::kSize, depth, rows);
  } else {
    multiply<V, NV, kRows, false>(acc, a, depth, 1, packed, NV * V::kSize, depth, rows);
  }
  const auto mask = V::mask(columns - (NV - 1) * V::kSize);
  const bool whole = columns >= NV * V::kSize;
  SUPERNET_UNROLL
  for (int i = 0; i < kRows; ++i) {
    if (i < rows) {
      SUPERNET_UNROLL
      for (int v = 0; v < NV; ++v) {
        const auto at = i * c_row + v * V::kSize;
        V value = activate(act, acc[i][v]);
        if (v + 1 < NV || whole) {
          value = residual ? value + V::load(residual + at) : value;
          value.store(c + at);
        } else {
          value = residual ? value + V::load(residual + at, mask) : value;
          value.store(c + at, mask);
        }
      }
    }
  }
}

template <class V>
void matmul(
    const typename V::Scalar* a,
    int64_t rows,
    int64_t depth,
    const typename V::Scalar* packed,
    int64_t columns,
    const typename V::Scalar* bias,
    Activation act,
    const typename V::Scalar* residual,
    typename V::Scalar* c) {
  const auto vectors = (columns + V::kSize - 1) / V::kSize;
  // Tiles of one height share their rows of A while these are in the L1 cache.
  const auto pass = [&](auto&& tile, int64_t height, int64_t first, int64_t count, int64_t width) {
    for (int64_t i = 0; i < rows; i += height) {
      for (int64_t v = first; v < first + count; v += width) {
        const auto column = v * V::kSize, at = i * columns + column;
        tile(
            a + i * depth, rows - i, depth, packed + column * depth, bias ? bias + column : nullptr, act,
            residual ? residual + at : nullptr, c + at, columns, columns - column);
      }
    }
  };
  if (vectors == 1) {
    pass(matmul_tile<V, 1>, V::kTileRows[0], 0, 1, 1);
    return;
  }
  const auto triple = vectors % 2 == 1 ? 3 : 0;
  if (triple) {
    pass(matmul_tile<V, 3>, V::kTileRows[2], 0, 3, 3);
  }
  pass(matmul_tile<V, 2>, V::kTileRows[1], triple, vectors - triple, 2);
}

template <class V>
void pack_matrix(
    const typename V::Scalar* b,
    int64_t row,
    int64_t column,
    int64_t depth,
    int64_t columns,
    const typename V::Scalar* scale,
    typename V::Scalar* packed) {
  const auto vectors = (columns + V::kSize - 1) / V::kSize;
  for (int64_t v = 0; v < vectors;) {
    const auto width = panel_vectors(vectors - v) * V::kSize, first = v * V::kSize;
    auto* out = packed + first * depth;
    const auto lanes = std::min(width, columns - first);
    for (int64_t k = 0; k < depth; ++k, out += width) {
      const auto* in = b + k * row + first * column;
      if (column == 1) {
        std::copy(in, in + lanes, out);
      } else {
        for (int64_t i = 0; i < lanes; ++i) {
          out[i] = in[i * column];
        }
      }
      std::fill(out + lanes, out + width, 0);
      for (int64_t i = 0; scale && i < lanes; ++i) {
        out[i] *= scale[first + i];
      }
    }
    v += width / V::kSize;
  }
}

template <class V, int NV>
void matmul_transposed_tiles(
    const typename V::Scalar* a,
    int64_t rows,
    const typename V::Scalar* b,
    int64_t columns,
    int64_t depth,
    typename V::Scalar* sums,
    int64_t sums_row) {
  constexpr int kRows = V::kTileRows[NV - 1];
  for (int64_t i = 0; i < rows; i += kRows) {
    V acc[kRows][NV];
    SUPERNET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SUPERNET_UNROLL
      for (int v = 0; v < NV; ++v) {
        acc[r][v] = V::zero();
      }
    }
    multiply<V, NV, kRows, true>(acc, a + i, 1, rows, b, columns, depth, kRows);
    SUPERNET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (i + r < rows) {
        SUPERNET_UNROLL
        for (int v = 0; v < NV; ++v) {
          auto* sum = sums + (i + r) * sums_row + v * V::kSize;
          (V::load(sum) + acc[r][v]).store(sum);
        }
      }
    }
  }
}

template <class V>
void matmul_transposed(
    const typename V::Scalar* a,
    int64_t rows,
    const typename V::Scalar* b,
    int64_t columns,
    int64_t depth,
    typename V::Scalar* sums) {
  const auto padded = padded_to<V>(columns);
  const auto vectors = padded / V::kSize;
  for (int64_t v = 0; v < vectors;) {
    const auto width = panel_vectors(vectors - v);
    const auto tiles = width == 3 ? &matmul_transposed_tiles<V, 3>
        : width == 2              ? &matmul_transposed_tiles<V, 2>
                                  : &matmul_transposed_tiles<V, 1>;
    tiles(a, rows, b + v * V::kSize, columns, depth, sums + v * V::kSize, padded);
    v += width;
  }
}

} // namespace supernet::cpu::SUPERNET_ISA
