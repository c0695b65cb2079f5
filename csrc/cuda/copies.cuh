// Copies from global to shared memory that are under way while the thread goes on: cp.async, from compute capability 8.0
// on. A thread sees what it copied after wait_for_copies(), others after a barrier behind that.
#pragma once

#include "cuda/common.cuh"

namespace supernet::cuda {

// 16 bytes, both on a multiple of 16; those from `bytes` on are 0 and not read.
__device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  unsigned char* const to = static_cast<unsigned char*>(shared);
  for (int i = 0; i < 16; ++i) {
    to[i] = i < bytes ? cuda::load(static_cast<const unsigned char*>(global) + i) : 0;
  }
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// 16 bytes of shared memory become base[i …], and 0 from base[n] on. With kWhole, base + i is on a multiple of 16 bytes,
// and they come by copy_async(); else through registers.
template <bool kWhole, typename T>
__device__ __forceinline__ void fetch_vec(T* shared, const T* base, int i, int n) {
  if constexpr (kWhole) {
    copy_async(shared, base + i, max(0, min(16, (n - i) * static_cast<int>(sizeof(T)))));
  } else {
    store_shared(shared, load_vec(base, i, n, false));
  }
}

} // namespace supernet::cuda
