// Tiles of the matrix unit, and products of rows of bfloat16 or of bytes in them: the pointwise convolutions.
//
// All eight tiles are of 16 rows of 64 bytes: A holds 16 pixels and 32 or 64 steps of the depth, B as many steps and 16
// columns, C 16 pixels and 16 columns in float or in int32. Two pixel tiles meet two column tiles at a time. Operands
// come padded to whole tiles, so that nothing is masked but the stores.
#pragma once

#include "cpu/kernels/pairs.h"

namespace supernet::cpu::SUPERNET_ISA {

// The unit is configured while this lives, and left without state, which would burden every switch of
// threads.
template <typename Operand, class Sums>
class TileProducts {
 public:
  using Scalar = typename Sums::Scalar;

  SUPERNET_INLINE TileProducts() {
    struct alignas(64) Config {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Config config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  SUPERNET_INLINE ~TileProducts() {
    asm volatile("tilerelease");
  }
  TileProducts(const TileProducts&) = delete;
  TileProducts& operator=(const TileProducts&) = delete;

  // Rows of A computed at a time.
  static constexpr int64_t kRows = 2 * kTileRows;

  // B's rows of 16 columns, and in each the next 16 columns, lie so many bytes apart.
  struct Layout {
    int64_t row, columns;
  };

  // Calls finish(row, columns 0 to 15, columns 16 to 31) of A B + bias for the first of `rows` rows, at most
  // kRows; of 16 columns or less the second vector is of no account.
  template <class F>
  SUPERNET_INLINE void operator()(
      int64_t rows, int64_t columns, const Operand* a, int64_t depth, const Operand* b, const Layout& layout,
      const Scalar* bias, const F& finish) const {
    alignas(64) Scalar product[kRows * kColumns];
    const bool tall = rows > kTileRows, wide = columns > kTileRows;
    const auto multiply = tall && wide ? &TileProducts::multiply<2, 2>
        : tall                        ? &TileProducts::multiply<2, 1>
        : wide                        ? &TileProducts::multiply<1, 2>
                                      : &TileProducts::multiply<1, 1>;
    multiply(a, depth, b, layout, bias, product);
    for (int64_t i = 0; i < std::min(rows, kRows); ++i) {
      const auto* row = product + i * kColumns;
      finish(i, Sums::load(row), Sums::load(row + (wide ? kTileRows : 0)));
    }
  }
  // The same, one column tile behind the other.
  template <class F>
  SUPERNET_INLINE void operator()(
      int64_t rows, int64_t columns, const Operand* a, int64_t depth, const Operand* b, const Scalar* bias,
      const F& finish) const {
    const Layout layout{kRowBytes, depth * kTileRows * static_cast<int64_t>(sizeof(Operand))};
    (*this)(rows, columns, a, depth, b, layout, bias, finish);
  }

 private:
  static constexpr int64_t kColumns = 2 * kTileRows, kRowBytes = 64;

  // 16 or 32 rows of A times NT column tiles, from `bias` on.
  template <int MT, int NT>
  static void multiply(
      const Operand* a, int64_t depth, const Operand* b, const Layout& layout, const Scalar* bias, Scalar* c) {
    const int64_t a_row = depth * static_cast<int64_t>(sizeof(Operand));
    const auto* a_bytes = reinterpret_cast<const char*>(a);
    const auto* b_bytes = reinterpret_cast<const char*>(b);
    load<0>(bias, 0); // the same row 16 times
    if constexpr (NT == 2) {
      load<1>(bias + kTileRows, 0);
    }
    if constexpr (MT == 2) {
      load<2>(bias, 0);
      if constexpr (NT == 2) {
        load<3>(bias + kTileRows, 0);
      }
    }
    for (int64_t k = 0; k < a_row; k += kRowBytes, b_bytes += kTileRows * layout.row) {
      load<6>(b_bytes, layout.row);
      load<4>(a_bytes + k, a_row);
      multiply_tiles<0, 4, 6>();
      if constexpr (MT == 2) {
        load<5>(a_bytes + k + kTileRows * a_row, a_row);
        multiply_tiles<2, 5, 6>();
      }
      if constexpr (NT == 2) {
        load<7>(b_bytes + layout.columns, layout.row);
        multiply_tiles<1, 4, 7>();
        if constexpr (MT == 2) {
          multiply_tiles<3, 5, 7>();
        }
      }
    }
    constexpr int64_t kSumBytes = 4 * kColumns;
    store<0>(c, kSumBytes);
    if constexpr (NT == 2) {
      store<1>(c + kTileRows, kSumBytes);
    }
    if constexpr (MT == 2) {
      store<2>(c + kTileRows * kColumns, kSumBytes);
      if constexpr (NT == 2) {
        store<3>(c + kTileRows * kColumns + kTileRows, kSumBytes);
      }
    }
  }

  // The compiler's intrinsics take no template arguments, and say nothing of the memory that they touch.
  template <int Tile>
  static SUPERNET_INLINE void load(const void* p, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(row_bytes), "i"(Tile) : "memory");
  }
  template <int Tile>
  static SUPERNET_INLINE void store(void* p, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(row_bytes), "i"(Tile) : "memory");
  }
  template <int C, int A, int B>
  static SUPERNET_INLINE void multiply_tiles() {
    if constexpr (sizeof(Operand) == 1) { // A is unsigned, B signed
      asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    } else {
      asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
  }
};

using Products = TileProducts<c10::BFloat16, FloatVec>;

} // namespace supernet::cpu::SUPERNET_ISA
