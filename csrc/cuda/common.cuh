// What the device code shares. Two compilers read it: nvcc, and a host compiler with tests/simt/simt.h, which runs
// each CUDA thread as a fiber on the CPU (tests/simt/runner.py says how to test a kernel there). The rules that a
// *_kernels.cuh keeps, so that both can:
//
//  - No ATen. Kernels, and the host function that plans and launches them from plain pointers, stand in the .cuh;
//    the .cu beside it checks tensors, allocates and calls that function.
//  - Global memory is read and written by cuda::load(), load_*() and store*() only (c10 has a load(), too): the runner
//    counts, bounds and guards there. (A kernel's pointer is not even mapped on the runner.) Every element of an output
//    is written.
//  - Shared memory is declared by SUPERNET_SHARED and SUPERNET_DYNAMIC_SHARED and used directly. No sizeof(name); at
//    most 48 KiB static and 64 KiB in all.
//  - Launches go through launch(). Blocks are one-dimensional, of whole warps; at most 65535 blocks in y and z.
//  - Intrinsics with _sync get kFullMask and are reached by the whole warp, barriers by the whole block: no return
//    before one. No __activemask, no atomics on floats, no waiting for another block.
//  - c10::Half and c10::BFloat16 are stored, float computes; no __hfma, __hadd, hsqrt. Offsets are int64_t.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <mma.h>

// On 32 bytes, for Vec and for WarpTile.
#define SUPERNET_SHARED(type, name, count) __shared__ __align__(32) type name[count]
#define SUPERNET_DYNAMIC_SHARED(type, name)                              \
  extern __shared__ __align__(32) unsigned char supernet_shared_bytes[]; \
  type* const name = reinterpret_cast<type*>(supernet_shared_bytes)
#else
#include "simt.h"
#endif

namespace supernet::cuda {

#ifndef __CUDACC__
using std::max, std::min; // nvcc has its own
#endif

constexpr unsigned kFullMask = 0xffffffffu;

// ---- launch ----

#ifdef __CUDACC__
using Stream = cudaStream_t;
#else
using Stream = simt::Stream;
#endif

// Of the current device, for plans: with fewer blocks a part of it waits.
inline int multiprocessors() {
#ifdef __CUDACC__
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
#else
  return simt::s.multiprocessors;
#endif
}

template <typename T>
struct Identity {
  using type = T; // keeps a parameter out of template deduction, so that arguments convert to it
};

// kernel<<<grid, block, shared, stream>>>(args...). Errors are left for C10_CUDA_KERNEL_LAUNCH_CHECK.
template <typename... Params>
void launch(
    void (*kernel)(Params...),
    dim3 grid,
    dim3 block,
    size_t dynamic_shared_bytes,
    Stream stream,
    typename Identity<Params>::type... args) {
#ifdef __CUDACC__
  if (dynamic_shared_bytes > 48 * 1024) { // more has to be asked for
    const auto bytes = static_cast<int>(dynamic_shared_bytes);
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) {
      return; // this error is the one to tell, not that of a launch without the memory
    }
  }
  kernel<<<grid, block, dynamic_shared_bytes, stream>>>(args...);
#else
  (void)stream;
  const auto address = reinterpret_cast<const void*>(kernel);
  simt::launch(address, grid, block, dynamic_shared_bytes, [&] { kernel(args...); });
#endif
}

// ---- global memory ----

// 16 bytes: the widest access of one thread.
template <typename T>
struct alignas(16) Vec {
  static constexpr int size = 16 / sizeof(T);
  T v[size];
};

// The same as it comes from memory. A batch of loads is kept so up to its use: taken apart at once, 16-bit elements make
// ptxas wait for each load before the next.
struct alignas(16) Words {
  uint32_t word[4];

  template <typename T>
  __device__ __forceinline__ static Words of(const Vec<T>& value) {
    return __builtin_bit_cast(Words, value);
  }
  template <typename T>
  __device__ __forceinline__ Vec<T> as() const {
    return __builtin_bit_cast(Vec<T>, *this);
  }
};

template <typename T>
__device__ __forceinline__ T load(const T* p) {
#ifdef __CUDACC__
  return *p;
#else
  return *simt::to_read(p);
#endif
}

template <typename T>
__device__ __forceinline__ void store(T* p, const T& value) {
#ifdef __CUDACC__
  *p = value;
#else
  *simt::to_write(p) = value;
#endif
}

// p is a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ Vec<T> load_vec(const T* p) {
  return cuda::load(reinterpret_cast<const Vec<T>*>(p));
}

template <typename T>
__device__ __forceinline__ void store_vec(T* p, const Vec<T>& value) {
  store(reinterpret_cast<Vec<T>*>(p), value);
}

// Reads base[i ...], 16 bytes, or the elements left before n, or none; zero beyond. `aligned` says whether the base
// allows accesses of 16 bytes.
template <typename T>
__device__ __forceinline__ Vec<T> load_vec(const T* base, int64_t i, int64_t n, bool aligned) {
  if (aligned && i + Vec<T>::size <= n) {
    return load_vec(base + i);
  }
  Vec<T> out;
#pragma unroll
  for (int j = 0; j < Vec<T>::size; ++j) {
    out.v[j] = i + j < n ? cuda::load(base + i + j) : static_cast<T>(0.f);
  }
  return out;
}

// The same where kWhole says for a whole loop that every access has 16 bytes: then nothing is asked inside of it, and
// the loop's loads can be under way at once.
template <bool kWhole, typename T>
__device__ __forceinline__ Words load_words(const T* base, int64_t i, int64_t n) {
  if constexpr (kWhole) {
    return cuda::load(reinterpret_cast<const Words*>(base + i));
  } else {
    return Words::of(load_vec(base, i, n, false));
  }
}

template <typename T>
__device__ __forceinline__ void store_vec(T* base, int64_t i, int64_t n, bool aligned, const Vec<T>& value) {
  if (aligned && i + Vec<T>::size <= n) {
    store_vec(base + i, value);
    return;
  }
#pragma unroll
  for (int j = 0; j < Vec<T>::size; ++j) {
    if (i + j < n) {
      store(base + i + j, value.v[j]);
    }
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void store_vec(T* base, int64_t i, int64_t n, const Vec<T>& value) {
  if constexpr (kWhole) {
    store_vec(base + i, value);
  } else {
    store_vec(base, i, n, false, value);
  }
}

// body(std::true_type or std::false_type): a branch outside of the loops in `body`, with kWhole for both forms above.
template <typename Body>
__device__ __forceinline__ void with_whole(bool whole, Body body) {
  if (whole) {
    body(std::true_type());
  } else {
    body(std::false_type());
  }
}

// For host code: may this buffer be read 16 bytes at a time?
inline bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// ---- reductions, in a fixed order ----

// The sum over the warp, in lane 0.
template <typename Acc>
__device__ __forceinline__ Acc warp_sum(Acc value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value += __shfl_down_sync(kFullMask, value, lanes);
  }
  return value;
}

// The sum over the block, in thread 0. `scratch` is shared memory for a value of each warp; every thread calls.
template <typename Acc>
__device__ __forceinline__ Acc block_sum(Acc value, Acc* scratch) {
  value = warp_sum(value);
  __syncthreads(); // scratch may still be read from the last call
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = value;
  }
  __syncthreads();
  Acc sum = 0;
  if (threadIdx.x == 0) {
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
      sum += scratch[w];
    }
  }
  return sum;
}

// ---- shared memory ----

// An access to shared memory, for the runner to count. It knows nothing of others, such as those of tensor cores.
template <typename T>
__device__ __forceinline__ T* counted(T* p) {
#ifndef __CUDACC__
  simt::touch(p, sizeof(T), threadIdx.x);
#endif
  return p;
}

template <typename T>
__device__ __forceinline__ void store_shared(T* p, T value) {
  *counted(p) = value;
}

// p is a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ Vec<T>& shared_vec(T* p) {
  return *counted(reinterpret_cast<Vec<T>*>(p));
}

constexpr int kQuad = 4;

// Four neighbouring elements in shared memory as floats.
struct Quad {
  float v[kQuad];
};

template <typename T>
__device__ __forceinline__ Quad load_quad(const T* shared) {
  struct alignas(kQuad * sizeof(T)) Raw {
    T v[kQuad];
  };
  const Raw raw = *counted(reinterpret_cast<const Raw*>(shared));
  Quad out;
#pragma unroll
  for (int c = 0; c < kQuad; ++c) {
    out.v[c] = static_cast<float>(raw.v[c]);
  }
  return out;
}

template <typename T>
__device__ __forceinline__ void store_quad(T* shared, const float (&value)[kQuad]) {
  struct alignas(kQuad * sizeof(T)) Raw {
    T v[kQuad];
  };
  Raw raw;
#pragma unroll
  for (int c = 0; c < kQuad; ++c) {
    raw.v[c] = static_cast<T>(value[c]);
  }
  *counted(reinterpret_cast<Raw*>(shared)) = raw;
}

// ---- tensor cores ----

enum class Major { row, column };

// Products of 16×16×16 tiles by one warp: C (float, in registers) += A · B. A is row-major, B as kB says: with
// Major::row element (k, n) is at b[k * stride + n], with Major::column at b[n * stride + k].
//
//   using Tile = WarpTile<T, Major::column>;
//   typename Tile::A a; typename Tile::B b; typename Tile::C c;
//   Tile::fill_zero(c);
//   for (k …) { Tile::load_a(a, shared_a + …, stride); Tile::load_b(b, shared_b + …, stride); Tile::mma(c, a, b); }
//   Tile::store_accumulators(shared_c, stride, c);   // row-major floats, complete after a __syncwarp()
//
// The whole warp calls each function. Pointers are to shared memory, on 32 bytes; strides are in elements, a multiple
// of 16 bytes. What load_a and load_b name stays unchanged up to the last mma with it (a barrier lies between). half
// runs on tensor cores, bf16 from compute capability 8.0 on; other types and devices multiply-add in float.
template <typename T>
struct TensorCoreType {
  using type = void; // none
};

#if defined(__CUDACC__)
template <>
struct TensorCoreType<c10::Half> {
  using type = __half;
};
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
template <>
struct TensorCoreType<c10::BFloat16> {
  using type = __nv_bfloat16;
};
#endif
#endif

template <typename T, Major kB, typename Core = typename TensorCoreType<T>::type>
struct WarpTile {
#ifdef __CUDACC__
  using BLayout = std::conditional_t<kB == Major::row, nvcuda::wmma::row_major, nvcuda::wmma::col_major>;
  using A = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, Core, nvcuda::wmma::row_major>;
  using B = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, Core, BLayout>;
  using C = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;

  __device__ static void fill_zero(C& c) {
    nvcuda::wmma::fill_fragment(c, 0.f);
  }
  __device__ static void load_a(A& a, const T* shared, int stride) {
    nvcuda::wmma::load_matrix_sync(a, reinterpret_cast<const Core*>(shared), stride);
  }
  __device__ static void load_b(B& b, const T* shared, int stride) {
    nvcuda::wmma::load_matrix_sync(b, reinterpret_cast<const Core*>(shared), stride);
  }
  __device__ static void mma(C& c, const A& a, const B& b) {
    nvcuda::wmma::mma_sync(c, a, b, c);
  }
  __device__ static void store_accumulators(float* shared, int stride, const C& c) {
    nvcuda::wmma::store_matrix_sync(shared, c, stride, nvcuda::wmma::mem_row_major);
  }
#endif
};

// Without tensor cores a lane owns two rows by four columns of C, and A and B stay in shared memory. (Lanes that read
// at once are a row apart: where rows lie an odd multiple of 16 bytes from each other, in other banks.)
template <typename T, Major kB>
struct WarpTile<T, kB, void> {
  struct A {
    const T* row; // the first of this lane's: row and row + 8
    int stride;
  };
  struct B {
    const T* column; // the first of this lane's: column, column + 4, …
    int stride;
  };
  struct C {
    float v[2][4];
  };

  __device__ static void fill_zero(C& c) {
    c = {};
  }
  __device__ static void load_a(A& a, const T* shared, int stride) {
    check(shared, stride);
    a = {shared + threadIdx.x % 8 * stride, stride};
  }
  __device__ static void load_b(B& b, const T* shared, int stride) {
    check(shared, stride);
    b = {shared + threadIdx.x % 32 / 8 * (kB == Major::row ? 1 : stride), stride};
  }
  __device__ static void mma(C& c, const A& a, const B& b) {
#pragma unroll 1
    for (int k = 0; k < 16; k += kQuad) {
      const Quad rows[2] = {load_quad(a.row + k), load_quad(a.row + 8 * a.stride + k)};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        Quad column;
        if constexpr (kB == Major::column) {
          column = load_quad(b.column + 4 * j * b.stride + k);
        } else {
          for (int i = 0; i < kQuad; ++i) {
            column.v[i] = static_cast<float>(b.column[(k + i) * b.stride + 4 * j]);
          }
        }
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
  __device__ static void store_accumulators(float* shared, int stride, const C& c) {
    check(shared, stride);
    float* const first = shared + threadIdx.x % 8 * stride + threadIdx.x % 32 / 8;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      first[4 * j] = c.v[0][j];
      first[8 * stride + 4 * j] = c.v[1][j];
    }
  }

 private:
  // What the tensor cores' instructions ask for, so that the runner sees a breach of it.
  template <typename E>
  __device__ static void check(const E* shared, int stride) {
#ifndef __CUDACC__
    simt::require(reinterpret_cast<uintptr_t>(shared) % 32 == 0, "a tile's address is not a multiple of 32 bytes");
    simt::require(stride * sizeof(E) % 16 == 0, "a tile's stride is not a multiple of 16 bytes");
#else
    (void)shared, (void)stride;
#endif
  }
};

} // namespace supernet::cuda
