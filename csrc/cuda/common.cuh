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
//    most 48 KiB static and block_shared() in all.
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
#include <initializer_list>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_runtime.h>

// On 32 bytes: Vec and the tensor cores take 16.
#define SUPERNET_SHARED(type, name, count) __shared__ __align__(32) type name[count]
#define SUPERNET_DYNAMIC_SHARED(type, name)                              \
  extern __shared__ __align__(32) unsigned char supernet_shared_bytes[]; \
  type* const name = reinterpret_cast<type*>(supernet_shared_bytes)
#else
#include "ptx.h" // with simt.h
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

// Bytes of shared memory for a block, for plans: two blocks find room on a multiprocessor where that leaves 64 KiB, which
// a block has on every device.
inline int block_shared() {
  constexpr int everywhere = 64 * 1024;
#ifdef __CUDACC__
  int device = 0, of_two = 0, reserved = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&of_two, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return std::max(everywhere, std::min(of_two / 2 - reserved, most));
#else
  return std::max(everywhere, simt::s.block_shared);
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

// 16 bytes, the widest access of one thread, or fewer elements side by side.
template <typename T, int kSize = 16 / sizeof(T)>
struct alignas(kSize * sizeof(T)) Vec {
  static constexpr int size = kSize;
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

// Reads base[i ...], so many elements, or those left before n, or none; zero beyond. `aligned` says whether the base
// allows access to all of them at once.
template <int kSize, typename T>
__device__ __forceinline__ Vec<T, kSize> load_some(const T* base, int64_t i, int64_t n, bool aligned) {
  if (aligned && i + kSize <= n) {
    return cuda::load(reinterpret_cast<const Vec<T, kSize>*>(base + i));
  }
  Vec<T, kSize> out;
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    out.v[j] = i + j < n ? cuda::load(base + i + j) : static_cast<T>(0.f);
  }
  return out;
}

template <typename T>
__device__ __forceinline__ Vec<T> load_vec(const T* base, int64_t i, int64_t n, bool aligned) {
  return load_some<Vec<T>::size>(base, i, n, aligned);
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

template <typename T, int kSize>
__device__ __forceinline__ void store_vec(T* base, int64_t i, int64_t n, bool aligned, const Vec<T, kSize>& value) {
  if (aligned && i + kSize <= n) {
    store(reinterpret_cast<Vec<T, kSize>*>(base + i), value);
    return;
  }
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
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

inline bool are_aligned(std::initializer_list<const void*> all) {
  return std::all_of(all.begin(), all.end(), is_aligned);
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

#ifdef __CUDACC__
// What moves a value in one piece: of a struct of 16-bit elements the compiler may take one after the other.
template <typename T>
using Whole = std::conditional_t<sizeof(T) == 16, uint4, std::conditional_t<sizeof(T) == 8, uint2, T>>;
#else
template <typename T>
using Whole = T;
#endif

template <typename T>
__device__ __forceinline__ T load_shared(const T* p) {
  return __builtin_bit_cast(T, *counted(reinterpret_cast<const Whole<T>*>(p)));
}

template <typename T>
__device__ __forceinline__ void store_shared(T* p, const T& value) {
  *counted(reinterpret_cast<Whole<T>*>(p)) = __builtin_bit_cast(Whole<T>, value);
}

// p is a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ void store_shared(T* p, const Vec<T>& value) {
  store_shared(reinterpret_cast<Vec<T>*>(p), value);
}

constexpr int kQuad = 4;

// Four neighbouring elements as floats.
struct Quad {
  float v[kQuad];
};

// A pair of elements of 16 bits takes one instruction.
template <typename T>
__device__ __forceinline__ Vec<T, kQuad> packed(const float (&value)[kQuad]) {
  Vec<T, kQuad> out;
#pragma unroll
  for (int c = 0; c < kQuad; c += 2) {
#ifdef __CUDACC__
    if constexpr (std::is_same_v<T, c10::Half>) {
      reinterpret_cast<__half2&>(out.v[c]) = __floats2half2_rn(value[c], value[c + 1]);
      continue;
    } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
      reinterpret_cast<__nv_bfloat162&>(out.v[c]) = __floats2bfloat162_rn(value[c], value[c + 1]);
      continue;
    }
#endif
    out.v[c] = static_cast<T>(value[c]);
    out.v[c + 1] = static_cast<T>(value[c + 1]);
  }
  return out;
}

template <typename T>
__device__ __forceinline__ Quad unpacked(const Vec<T, kQuad>& quad) {
  Quad out;
#pragma unroll
  for (int c = 0; c < kQuad; ++c) {
    out.v[c] = static_cast<float>(quad.v[c]);
  }
  return out;
}

template <typename T>
__device__ __forceinline__ Quad load_quad(const T* shared) {
  return unpacked(load_shared(reinterpret_cast<const Vec<T, kQuad>*>(shared)));
}

template <typename T>
__device__ __forceinline__ void store_quad(T* shared, const float (&value)[kQuad]) {
  store_shared(reinterpret_cast<Vec<T, kQuad>*>(shared), packed<T>(value));
}

} // namespace supernet::cuda
