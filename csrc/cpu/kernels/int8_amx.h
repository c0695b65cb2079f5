// Products of bytes in tiles of the matrix unit, for Int8Kernels.
#pragma once

#include "cpu/kernels/amx.h"
#include "cpu/kernels/int8.h"

namespace supernet::cpu::SUPERNET_ISA {

inline void pad_pixels_to_tiles(
    const uint8_t* x, int64_t pixels, int64_t channels, int64_t depth, uint8_t flip, uint8_t* y) {
  const auto turned = _mm512_set1_epi8(static_cast<char>(flip));
  for (int64_t i = 0; i < pixels; ++i, x += channels, y += depth) {
    for (int64_t c = 0; c < depth; c += 64) {
      const auto left = channels - c;
      const auto mask = left >= 64 ? ~__mmask64(0) : (__mmask64(1) << left) - 1;
      _mm512_storeu_si512(y + c, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, x + c), turned));
    }
  }
}

inline void multiply_tiles_of_bytes(
    const uint8_t* x, int64_t pixels, int64_t depth, const int8_t* packed, int64_t columns, const Requantisation& of,
    const Addition* add, uint8_t* y, int64_t y_pixel) {
  using V = QuadVec;
  constexpr auto kPanel = Int8Kernels::kPanel;
  const TileProducts<uint8_t, V> products;
  for (int64_t i = 0; i < pixels; i += products.kRows) {
    for (int64_t j = 0; j < columns; j += kPanel) {
      const auto left = columns - j;
      const Requantisation part{of.bias + j, of.scale + j, of.to};
      const bool wide = left > V::kSize;
      products(
          pixels - i, left, x + i * depth, depth, reinterpret_cast<const uint8_t*>(packed) + j * depth,
          {wide ? 128 : 64, 64}, part.bias, [&](int64_t r, V low, V high) SUPERNET_LAMBDA {
            const auto at = (i + r) * y_pixel + j;
            if (wide) {
              store_values<V, 2>({low, high}, part, add, at, left, y);
            } else {
              store_values<V, 1>({low}, part, add, at, left, y);
            }
          });
    }
  }
}

} // namespace supernet::cpu::SUPERNET_ISA
