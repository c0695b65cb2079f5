// Names the host functions of a *_kernels.cuh that a test calls: SIMT_EXPORT(name, function<types>).
//
// For the runner each becomes a C function on an array of 64-bit arguments, which runner.py fills: a pointer, an
// integer, the bits of a double, or the address of a struct. For nvcc it only instantiates the kernels, so that
// tests/test_ptxas.py sees what ptxas makes of the same list.
#pragma once

#include <c10/util/Load.h> // has a load() for its own types: that of the kernels is not to be taken for it

#ifdef __CUDACC__

#define SIMT_EXPORT(name, ...) \
  auto name() {                \
    return &__VA_ARGS__;       \
  }

#else

#include <dlfcn.h>

#include <type_traits>
#include <utility>

#include "simt.h"

#define SIMT_PUBLIC extern "C" __attribute__((visibility("default")))

#define SIMT_EXPORT(name, ...)                                             \
  SIMT_PUBLIC const char* name(const int64_t* arguments, size_t count) {   \
    return simt::call(&__VA_ARGS__, arguments, count);                     \
  }

namespace simt {

template <typename T>
T unpack(const int64_t* argument) {
  if constexpr (std::is_same_v<T, Stream>) {
    return {};
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(*argument);
  } else if constexpr (std::is_floating_point_v<T>) {
    double value;
    std::memcpy(&value, argument, sizeof(value));
    return static_cast<T>(value);
  } else if constexpr (std::is_class_v<T>) {
    return *reinterpret_cast<const T*>(*argument);
  } else {
    return static_cast<T>(*argument);
  }
}

// Calls it, and returns why it failed, or null. The stream comes last and is not among the arguments.
template <typename... Params>
const char* call(void (*function)(Params...), const int64_t* arguments, size_t count) {
  static std::string what;
  try {
    if (count + 1 != sizeof...(Params)) {
      throw Failure{"expected " + std::to_string(sizeof...(Params) - 1) + " arguments, got " + std::to_string(count)};
    }
    [&]<size_t... i>(std::index_sequence<i...>) {
      function(unpack<std::decay_t<Params>>(arguments + i)...);
    }(std::index_sequence_for<Params...>());
    return nullptr;
  } catch (const Failure& failure) {
    what = failure.what;
    return what.c_str();
  }
}

} // namespace simt

// ---- what runner.py calls ----

// Forgets all buffers and counts, and says how the next call runs.
SIMT_PUBLIC void simt_reset(
    int order, int64_t seed, bool counting, double limit, int multiprocessors, int block_shared) {
  using namespace simt;
  if (!memory.arena) {
    memory.arena = reserve(2 * kArena);
  }
  reserve(memory.used, memory.arena);
  memory.used = 0;
  memory.buffers.clear();
  memory.buffer_of.assign(kArena / kPage, -1);
  memory.counting = counting;
  memory.shared_counts = {};
  memory.counts[0] = memory.counts[1] = {};
  s.thread_order = static_cast<Order>(order);
  s.rng.seed(seed);
  s.limit = limit;
  s.steps = 0;
  s.multiprocessors = multiprocessors;
  s.block_shared = block_shared;
  s.history.clear();
}

// A buffer `offset` bytes behind a multiple of 16; null if there is no room.
SIMT_PUBLIC void* simt_allocate(const char* name, size_t bytes, size_t offset, bool at_end) {
  using namespace simt;
  if (memory.used + bytes + offset + 4 * kPage > kArena) {
    return nullptr;
  }
  const size_t first = memory.used + kPage;
  memory.buffers.push_back(make_region(name, memory.arena + first, bytes, 16, offset, at_end));
  memory.used = memory.buffers.back().high - memory.arena + kPage;
  for (size_t page = first / kPage - 1; page < memory.used / kPage; ++page) {
    memory.buffer_of[page] = static_cast<int>(memory.buffers.size()) - 1;
  }
  return memory.buffers.back().base;
}

SIMT_PUBLIC void simt_make_last_readonly() {
  const auto& r = simt::memory.buffers.back();
  mprotect(r.low, r.high - r.low, PROT_READ);
}

// What a kernel is given for the buffer.
SIMT_PUBLIC void* simt_pointer(void* base) {
  return static_cast<char*>(base) + simt::kArena;
}

// Of the buffer allocated as the n-th: sectors loaded and stored, each counted once in a block.
SIMT_PUBLIC void simt_buffer_counts(int n, int64_t* out) {
  std::copy_n(simt::memory.buffers[n].block_sectors, 2, out);
}

// Of loads and of stores: warp requests, their 32-byte sectors, bytes asked for, and sectors with each counted once in
// a block.
SIMT_PUBLIC void simt_counts(int64_t* out) {
  for (const auto& c : simt::memory.counts) {
    for (const auto value : {c.requests, c.sectors, c.bytes, c.block_sectors}) {
      *out++ = value;
    }
  }
  const auto& shared = simt::memory.shared_counts;
  for (const auto value : {shared.requests, shared.wavefronts, shared.least}) {
    *out++ = value;
  }
}

// Launches since the last reset; with `out` not null, of each: the kernel's place in the library, blocks, threads, bytes
// of dynamic shared memory, blocks that stored nothing, and bytes copied a wait.
SIMT_PUBLIC int simt_launches(int64_t* out) {
  for (const auto& l : simt::s.history) {
    Dl_info info = {};
    dladdr(l.kernel, &info);
    const int64_t place = static_cast<const char*>(l.kernel) - static_cast<const char*>(info.dli_fbase);
    for (const auto value : {place, l.blocks, l.threads, l.dynamic_bytes, l.idle, l.copied}) {
      if (out) {
        *out++ = value;
      }
    }
  }
  return static_cast<int>(simt::s.history.size());
}

#endif
