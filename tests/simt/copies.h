// cp.async on the runner: nothing arrives before the thread waits for it. Until then the place holds 0xff, and no
// counted access may touch it.
#pragma once

#include "simt.h"

namespace simt {

inline void copy_async(void* shared, const void* global, int bytes) {
  require(reinterpret_cast<uintptr_t>(shared) % 16 == 0, "a copy to shared memory that is not aligned to 16 bytes");
  require(0 <= bytes && bytes <= 16, "a copy of less than 0 or more than 16 bytes");
  const char* from = nullptr;
  if (bytes) {
    // Aligned to 16 bytes whatever is read of them.
    require(reinterpret_cast<uintptr_t>(global) % 16 == 0, "a copy from global memory that is not aligned to 16 bytes");
    from = access(global, bytes, 1, false, threadIdx.x);
  }
  touch(shared, 16, threadIdx.x);
  std::memset(shared, 0xff, 16);
  memory.pending.insert(reinterpret_cast<uintptr_t>(shared) / 16);
  ++memory.block_copies;
  memory.copies[s.current].push_back({static_cast<char*>(shared), from, bytes});
}

inline void wait_for_copies() {
  auto& copies = memory.copies[s.current];
  memory.waits[s.current] += !copies.empty();
  for (const auto& copy : copies) {
    std::memset(copy.to, 0, 16);
    if (copy.bytes) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
    memory.pending.erase(memory.pending.find(reinterpret_cast<uintptr_t>(copy.to) / 16));
  }
  copies.clear();
}

} // namespace simt
