// Tiles of the matrix unit, and products of bfloat16 rows in them: the pointwise convolutions.
//
// All eight tiles are of 16 rows of 64 bytes: A holds 16 pixels and 32 steps of the depth, B as many steps and 16
// columns, C 16 pixels and 16 columns in float. Two pixel tiles meet two column tiles at a time. Operands come
// padded to whole tiles, so that nothing is masked but the stores.
#pragma once

#include "vector_ops.h"

namespace supernet::cpu::SUPERNET_ISA {

constexpr int64_t kTileRows = 16, kTileDepth = 32;
constexpr int64_t kTileValues = kTileRows * kTileDepth; // of A and of B

// The unit is configured while this lives, and left without state, which would burden every switch of threads.
class Tiles {
 public:
  SUPERNET_INLINE Tiles() {
    struct alignas(64) Config {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Config config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  SUPERNET_INLINE ~Tiles() {
    asm volatile("tilerelease");
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

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
  static SUPERNET_INLINE void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

// B, given as b [columns, depth], as tiles: column tile by column tile, of each all steps. In a tile lie 16 rows of
// 16 pairs of steps.
inline void pack_tiles(
    const float* b, int64_t depth, int64_t columns, const float* scale, c10::BFloat16* packed) {
  using V = FloatVec;
  const auto rows =
      _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
  for (int64_t first = 0; first < columns; first += kTileRows) {
    for (int64_t k = 0; k < depth; k += kTileDepth, packed += kTileValues) {
      const auto low = V::mask(depth - k), high = V::mask(std::max<int64_t>(depth - k - V::kSize, 0));
      for (int64_t i = 0; i < kTileRows; ++i) {
        V one = V::zero(), other = V::zero();
        if (first + i < columns) {
          const float* p = b + (first + i) * depth + k;
          const V by = V::set(scale[first + i]);
          one = V::load(p, low) * by;
          other = V::load(p + V::kSize, high) * by;
        }
        _mm512_i32scatter_epi32(packed + 2 * i, rows, V::pair(one, other), 4);
      }
    }
  }
}

// 16 or 32 rows of A times NT column tiles, from `bias` on, into C with rows c_row apart.
template <int MT, int NT>
SUPERNET_INLINE void multiply_tiles(
    const c10::BFloat16* a,
    int64_t depth,
    const c10::BFloat16* b,
    const float* bias,
    float* c,
    int64_t c_row,
    int64_t c_tile) {
  const int64_t a_bytes = 2 * depth, b_tile = depth * kTileRows;
  Tiles::load<0>(bias, 0); // the same row 16 times
  if constexpr (NT == 2) {
    Tiles::load<1>(bias + kTileRows, 0);
  }
  if constexpr (MT == 2) {
    Tiles::load<2>(bias, 0);
    if constexpr (NT == 2) {
      Tiles::load<3>(bias + kTileRows, 0);
    }
  }
  for (int64_t k = 0; k < depth; k += kTileDepth, b += kTileValues) {
    Tiles::load<6>(b, 64);
    Tiles::load<4>(a + k, a_bytes);
    Tiles::multiply<0, 4, 6>();
    if constexpr (MT == 2) {
      Tiles::load<5>(a + k + kTileRows * depth, a_bytes);
      Tiles::multiply<2, 5, 6>();
    }
    if constexpr (NT == 2) {
      Tiles::load<7>(b + b_tile, 64);
      Tiles::multiply<1, 4, 7>();
      if constexpr (MT == 2) {
        Tiles::multiply<3, 5, 7>();
      }
    }
  }
  const int64_t row_bytes = 4 * c_row;
  Tiles::store<0>(c, row_bytes);
  if constexpr (NT == 2) {
    Tiles::store<1>(c + c_tile, row_bytes);
  }
  if constexpr (MT == 2) {
    Tiles::store<2>(c + kTileRows * c_row, row_bytes);
    if constexpr (NT == 2) {
      Tiles::store<3>(c + kTileRows * c_row + c_tile, row_bytes);
    }
  }
}

// Calls multiply_tiles with what is left of rows and columns, at most 2 tiles of each.
SUPERNET_INLINE void multiply_tiles(
    int64_t rows,
    int64_t columns,
    const c10::BFloat16* a,
    int64_t depth,
    const c10::BFloat16* b,
    const float* bias,
    float* c,
    int64_t c_row,
    int64_t c_tile) {
  const bool tall = rows > kTileRows, wide = columns > kTileRows;
  if (tall && wide) {
    multiply_tiles<2, 2>(a, depth, b, bias, c, c_row, c_tile);
  } else if (tall) {
    multiply_tiles<2, 1>(a, depth, b, bias, c, c_row, c_tile);
  } else if (wide) {
    multiply_tiles<1, 2>(a, depth, b, bias, c, c_row, c_tile);
  } else {
    multiply_tiles<1, 1>(a, depth, b, bias, c, c_row, c_tile);
  }
}

} // namespace supernet::cpu::SUPERNET_ISA
