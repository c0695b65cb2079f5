// Memory for intermediate results, kept per thread so that no call pays for its pages again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace supernet::cpu {

// What a thread keeps between calls for each use: buffers of different uses may be held at the same time.
enum class Use { input, output, gradient, middle, expanded, count };

// At least `n` values, aligned to a cache line, undefined; valid until the thread asks for the same use
// again.
template <typename S>
S* scratch(Use use, int64_t n) {
  struct Free {
    void operator()(void* p) const {
      std::free(p);
    }
  };
  struct Buffer {
    std::unique_ptr<void, Free> data;
    size_t size = 0;
  };
  thread_local Buffer buffers[static_cast<int>(Use::count)];
  auto& buffer = buffers[static_cast<int>(use)];
  const auto bytes = (static_cast<size_t>(n) * sizeof(S) + 63) / 64 * 64;
  if (buffer.size < bytes) {
    buffer.data.reset();
    buffer.size = 0;
    buffer.data.reset(std::aligned_alloc(64, bytes));
    if (!buffer.data) {
      throw std::bad_alloc();
    }
    buffer.size = bytes;
  }
  return static_cast<S*>(buffer.data.get());
}

} // namespace supernet::cpu
