// Names the host functions of a *_kernels.cuh that a test calls: SIMT_EXPORT(name, function<types>).
//
// For the runner each becomes a C function on an array of 64-bit arguments, which runner.py fills: a pointer, an
// integer, the bits of a double, or the address of a struct. For nvcc it only instantiates the kernels, so that
// tests/test_ptxas.py sees what ptxas makes of the same list.
#pragma once

#ifdef __CUDACC__

#define SIMT_EXPORT(name, ...) \
  auto name() {                \
    return &__VA_ARGS__;       \
  }

#else

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
SIMT_PUBLIC void simt_reset(int order, int64_t seed, bool counting, double limit) {
  using namespace simt;
  if (!s.arena) {
    s.arena = static_cast<char*>(
        mmap(nullptr, 2 * kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  for (const auto& r : s.buffers) {
    mmap(r.low, r.high - r.low, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
  s.buffers.clear();
  s.buffer_of.assign(kArena / kPage, -1);
  s.used = 0;
  s.thread_order = static_cast<Order>(order);
  s.rng.seed(seed);
  s.counting = counting;
  s.counts[0] = s.counts[1] = {};
  s.steps = 0;
  s.limit = limit;
}

// A buffer of 0xff, `offset` bytes behind a multiple of 16, as near to its first or last page's border as that allows.
SIMT_PUBLIC void* simt_allocate(const char* name, size_t bytes, size_t offset, bool at_end) {
  using namespace simt;
  const size_t room = (bytes + offset + 15) / 16 * 16;
  const size_t pages = (room + kPage - 1) / kPage * kPage;
  if (s.used + pages + 2 * kPage > kArena) {
    return nullptr;
  }
  char* const low = s.arena + s.used + kPage;
  char* const base = (at_end ? low + pages - room : low) + offset;
  s.used += pages + 2 * kPage;
  mprotect(low, pages, PROT_READ | PROT_WRITE);
  const Region region = {name, base, bytes, low, low + pages, nullptr, 0};
  poison(region);
  std::fill_n(s.buffer_of.begin() + (low - s.arena) / kPage - 1, pages / kPage + 2, int(s.buffers.size()));
  s.buffers.push_back(region);
  return base;
}

SIMT_PUBLIC void simt_make_readonly(void* base) {
  using namespace simt;
  const auto& r = *std::find_if(s.buffers.begin(), s.buffers.end(), [&](auto& b) { return b.base == base; });
  mprotect(r.low, r.high - r.low, PROT_READ);
}

// What a kernel is given for the buffer.
SIMT_PUBLIC void* simt_pointer(void* base) {
  return static_cast<char*>(base) + simt::kArena;
}

// Waits of threads; then of loads and of stores: warp requests, their 32-byte sectors, bytes asked for, and sectors
// with each counted once in a block.
SIMT_PUBLIC void simt_counts(int64_t* out) {
  *out++ = simt::s.steps;
  for (const auto& c : simt::s.counts) {
    for (const auto value : {c.requests, c.sectors, c.bytes, c.block_sectors}) {
      *out++ = value;
    }
  }
}

#endif
