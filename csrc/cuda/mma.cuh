// Products of tiles by one warp, on tensor cores from compute capability 8.0 on, for floats where less precision is
// allowed: the instructions, and a form that multiplies and adds in float. Both keep a product's elements in the same lanes.
#pragma once

#include "cuda/common.cuh"

namespace supernet::cuda {

// ---- the instructions, by the PTX manual (ldmatrix, mma.m16n8k16, mma.m16n8k8) ----

// Lane l gets of each of four 8×8 matrices of 16-bit elements the elements 2 (l % 4) and the next of row l / 4. Row r of
// matrix m, 16 bytes in shared memory, is where lane 8 m + r points.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// What floats are rounded to before they are multiplied on tensor cores, where that is asked for: 10 bits of mantissa.
struct Tf32 {};

// c [16][8] += a [16][k] · b [k][8]. With g = lane / 4 and t = lane % 4 a lane has of c: columns 2 t + {0, 1} of row g,
// then of row g + 8. Of c10::Half or c10::BFloat16 (P), k = 16:
//   of a: columns 2 t + {0, 1} of rows g and g + 8, then columns 2 t + 8 + {0, 1} of these,
//   of b: rows 2 t + {0, 1}, then rows 2 t + 8 + {0, 1}, of column g.
// Of Tf32, k = 8:
//   of a: column t of rows g and g + 8, then column t + 4 of these,
//   of b: rows t and t + 4 of column g.
template <typename P>
__device__ __forceinline__ void multiply_matrices(
    float& c0, float& c1, float& c2, float& c3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#define SUPERNET_MMA(shape, types)                                                                           \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." types ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, " \
               "{%8, %9}, {%0, %1, %2, %3};"                                                                 \
               : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<P, c10::Half>) {
    SUPERNET_MMA("m16n8k16", "f16.f16");
  } else if constexpr (std::is_same_v<P, c10::BFloat16>) {
    SUPERNET_MMA("m16n8k16", "bf16.bf16");
  } else {
    SUPERNET_MMA("m16n8k8", "tf32.tf32");
  }
#undef SUPERNET_MMA
}

// Ties away from zero. (The instruction above cuts off what it is not given rounded.)
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <typename P>
constexpr bool kTensorCores = false;
#else
template <typename P>
constexpr bool kTensorCores = !std::is_same_v<P, float>;
#endif

// ---- tiles ----

// What the tiles below share: C [16][16] of floats += A [16][16] · B [16][16], A row-major.
//
//   using Tile = WarpTile<T>;
//   typename Tile::A a; typename Tile::B b; typename Tile::C c = {};
//   for (k …) { Tile::load_a(a, shared_a + …, stride); Tile::load_b(b, shared_b + …, stride); Tile::mma(c, a, b); }
//   c.v[i] are columns [first_column(), first_column() + 4) of row first_row() + 8 i.
//
// Column n of B, its elements side by side, is at b + place(n) * stride: in this order a lane's columns of C are
// neighbours. Its rows are those that let the lanes of a quarter, or half, of the warp store 16, or 8, bytes of each into
// different banks, where rows lie an odd multiple of 16 bytes apart. The whole warp calls each function. Pointers are to
// shared memory, on 16 bytes, as strides are, which are in elements. What load_a and load_b name stays unchanged up to
// the last mma with it (a barrier lies between).
struct WarpTileLayout {
  struct C {
    float v[2][kQuad];
  };

  __host__ __device__ static constexpr int place(int n) {
    return n / 16 * 16 + (n & 2) * 4 + n % 16 / 4 * 2 + (n & 1);
  }
  // Of the eight rows of a matrix the n-th: its bits reversed.
  __device__ static int row(int n) {
    return (n & 1) * 4 + (n & 2) + n / 4;
  }
  __device__ static int first_row() {
    return row(threadIdx.x % 32 / 4);
  }
  __device__ static int first_column() {
    return threadIdx.x % 4 * kQuad;
  }
};

// T is the type in shared memory, P what is multiplied: T, or Tf32 for floats.
template <typename T, typename P = T, bool kCores = kTensorCores<P>>
struct WarpTile : WarpTileLayout {
  static constexpr int steps = sizeof(T) / 2, size = Vec<T>::size; // instructions along the 16; elements of a matrix' row
  struct A {
    uint32_t v[steps][4]; // rows up to 8 and from there on; the same of the further columns
  };
  struct B {
    uint32_t v[steps][4]; // rows of a column up to 8 and further; the same of the columns from 8 on
  };

  __device__ static void load_a(A& a, const T* shared, int stride) {
    const int lane = threadIdx.x % 32;
    load(a.v, shared + (row(lane % 8) + lane / 8 % 2 * 8) * stride + lane / 16 * size);
  }
  __device__ static void load_b(B& b, const T* shared, int stride) {
    const int lane = threadIdx.x % 32;
    load(b.v, shared + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * size);
  }
  __device__ static void mma(C& c, const A& a, const B& b) {
#pragma unroll
    for (int k = 0; k < steps; ++k) {
      multiply_matrices<P>(c.v[0][0], c.v[0][1], c.v[1][0], c.v[1][1], a.v[k], b.v[k][0], b.v[k][1]);
      multiply_matrices<P>(c.v[0][2], c.v[0][3], c.v[1][2], c.v[1][3], a.v[k], b.v[k][2], b.v[k][3]);
    }
  }

 private:
  __device__ static void load(uint32_t (&v)[steps][4], const T* row) {
#pragma unroll
    for (int k = 0; k < steps; ++k) {
      load_matrices(v[k], row + k * 2 * size);
      if constexpr (std::is_same_v<P, Tf32>) {
#pragma unroll
        for (uint32_t& element : v[k]) {
          element = to_tf32(element);
        }
      }
    }
  }
};

// Without tensor cores A and B stay in shared memory.
template <typename T, typename P>
struct WarpTile<T, P, false> : WarpTileLayout {
  struct A {
    const T* row; // the first of this lane's: row and row + 8
    int stride;
  };
  struct B {
    const T* column; // the first of this lane's: column, column + 1, column + 8, column + 9
    int stride;
  };

  __device__ static void load_a(A& a, const T* shared, int stride) {
    check(shared, stride);
    a = {shared + first_row() * stride, stride};
  }
  __device__ static void load_b(B& b, const T* shared, int stride) {
    check(shared, stride);
    b = {shared + threadIdx.x % 4 * 2 * stride, stride};
  }
  __device__ static void mma(C& c, const A& a, const B& b) {
#pragma unroll 1
    for (int k = 0; k < 16; k += kQuad) {
      const Quad rows[2] = {load_quad(a.row + k), load_quad(a.row + 8 * a.stride + k)};
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const Quad column = load_quad(b.column + (j / 2 * 8 + j % 2) * b.stride + k);
#pragma unroll
        for (int i = 0; i < kQuad; ++i) {
          c.v[0][j] += rows[0].v[i] * column.v[i];
          c.v[1][j] += rows[1].v[i] * column.v[i];
        }
      }
    }
#ifndef __CUDACC__
    __syncwarp(); // the warp has to come here as one; after the reads, or it would hide that the caller forgot its own
#endif
  }

 private:
  // What the instructions ask for, so that the runner sees a breach of it.
  __device__ static void check(const T* shared, int stride) {
#ifndef __CUDACC__
    simt::require_rows(shared, stride * sizeof(T));
#else
    (void)shared, (void)stride;
#endif
  }
};

// body(T, or Tf32 where `tf32` allows that for floats): the P of the tiles above.
template <typename T, typename Body>
void with_products(bool tf32, Body body) {
  if constexpr (std::is_same_v<T, float>) {
    if (tf32) {
      return body(Tf32());
    }
  }
  body(T());
}

} // namespace supernet::cuda
