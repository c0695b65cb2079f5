// Products of bytes and what becomes of their sums: unsigned values times int8, as cpu/int8_kernels.h has them.
#pragma once

#include <cmath>

#include "cuda/common.cuh"

namespace supernet::cuda {

// sum + Σ of four products of the bytes of `a`, unsigned, and of `b`, signed.
__device__ __forceinline__ int dot(uint32_t a, uint32_t b, int sum) {
  asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
}

// A warp's C [16][8] += A [16][32] · B [32][8]. With group = lane / 4 and place = lane % 4, a lane has of C row `group`,
// columns 2 place and 2 place + 1, and the same of row group + 8; of A in four words the steps 4 place to 4 place + 3 of
// these two rows, then of both those 16 further; of B in two words the same steps of column `group` (PTX ISA, mma.m16n8k32).
__device__ __forceinline__ void multiply_tile(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800 // as the lanes tell each other
  const int group = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int place = 0; place < 4; ++place) {
    for (int half = 0; half < 2; ++half) {
      const int row = group * 4 + place, first = column * 4 + place;
      const uint32_t upper = __shfl_sync(kFullMask, a[2 * half], row), lower = __shfl_sync(kFullMask, a[2 * half + 1], row);
      const uint32_t left = __shfl_sync(kFullMask, b[half], first), right = __shfl_sync(kFullMask, b[half], first + 4);
      c[0] = dot(upper, left, c[0]);
      c[1] = dot(upper, right, c[1]);
      c[2] = dot(lower, left, c[2]);
      c[3] = dot(lower, right, c[3]);
    }
  }
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// From reals to values: clamp(round(real) + zero, 0, 255), then through `table` where that is not null, then written
// with the bits of `flip` turned.
struct Int8Rounding {
  int zero;
  const uint8_t* table;
  uint32_t flip;

  // Less the zero point.
  __device__ __forceinline__ float clamped(float real) const {
    const auto low = static_cast<float>(-zero);
    return rintf(fminf(fmaxf(real, low), low + 255));
  }
  __device__ __forceinline__ uint32_t operator()(float real) const {
    const auto value = static_cast<uint32_t>(static_cast<int>(clamped(real)) + zero);
    return (table ? cuda::load(table + value) : value) ^ flip;
  }
};

// A convolution's weight, packed as its kernel wants it, and per output what makes values of its sums.
struct Int8Weights {
  const uint32_t* weight;
  const int* bias;
  const float* scale;
  Int8Rounding to;

  __device__ __forceinline__ int start(int output) const {
    return cuda::load(bias + output);
  }
  __device__ __forceinline__ float real(int sum, int output) const {
    return static_cast<float>(sum) * cuda::load(scale + output);
  }
};

} // namespace supernet::cuda
