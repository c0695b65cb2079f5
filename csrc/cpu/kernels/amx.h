// Tiles of the matrix unit, and products of bfloat16 rows in them: the pointwise convolutions.
//
// All eight tiles are of 16 rows of 64 bytes: A holds 16 pixels and 32 steps of the depth, B as many steps
// and 16 columns, C 16 pixels and 16 columns in float. Two pixel tiles meet two column tiles at a time.
// Operands come padded to whole tiles, so that nothing is masked but the stores.
#pragma once

#include "cpu/kernels/pairs.h"

namespace supernet::cpu::SUPERNET_ISA {

// The unit is configured while this lives, and left without state, which would burden every switch of
// threads.
class Products {
 public:
  SUPERNET_INLINE Products() {
    struct alignas(64) Config {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Config config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  SUPERNET_INLINE ~Products() {
    asm volatile("tilerelease");
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Rows of A computed at a time.
  static constexpr int64_t kRows = 2 * kTileRows;

  // Calls finish(row, columns 0 to 15, columns 16 to 31) of A B + bias for the first of `rows` rows, at most
  // kRows; of 16 columns or less the second vector is of no account.
  template <class F>
  SUPERNET_INLINE void operator()(
      int64_t rows, int64_t columns, const c10::BFloat16* a, int64_t depth, const c10::BFloat16* b,
      const float* bias, const F& finish) const {
    using V = FloatVec;
    alignas(64) float product[kRows * kColumns];
    const bool tall = rows > kTileRows, wide = columns > kTileRows;
    const auto multiply = tall && wide ? &Products::multiply<2, 2>
        : tall                        ? &Products::multiply<2, 1>
        : wide                        ? &Products::multiply<1, 2>
                                      : &Products::multiply<1, 1>;
    multiply(a, depth, b, bias, product);
    for (int64_t i = 0; i < std::min(rows, kRows); ++i) {
      const auto* row = product + i * kColumns;
      finish(i, V::load(row), V::load(row + (wide ? kTileRows : 0)));
    }
  }

 private:
  static constexpr int64_t kColumns = 2 * kTileRows;

  // 16 or 32 rows of A times NT column tiles, from `bias` on.
  template <int MT, int NT>
  static void multiply(
      const c10::BFloat16* a, int64_t depth, const c10::BFloat16* b, const float* bias, float* c) {
    const int64_t a_bytes = 2 * depth, b_tile = depth * kTileRows;
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
    for (int64_t k = 0; k < depth; k += kTileDepth, b += kTileValues) {
      load<6>(b, 64);
      load<4>(a + k, a_bytes);
      multiply_tiles<0, 4, 6>();
      if constexpr (MT == 2) {
        load<5>(a + k + kTileRows * depth, a_bytes);
        multiply_tiles<2, 5, 6>();
      }
      if constexpr (NT == 2) {
        load<7>(b + b_tile, 64);
        multiply_tiles<1, 4, 7>();
        if constexpr (MT == 2) {
          multiply_tiles<3, 5, 7>();
        }
      }
    }
    constexpr int64_t kRowBytes = 4 * kColumns;
    store<0>(c, kRowBytes);
    if constexpr (NT == 2) {
      store<1>(c + kTileRows, kRowBytes);
    }
    if constexpr (MT == 2) {
      store<2>(c + kTileRows * kColumns, kRowBytes);
      if constexpr (NT == 2) {
        store<3>(c + kTileRows * kColumns + kTileRows, kRowBytes);
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
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

} // namespace supernet::cpu::SUPERNET_ISA
