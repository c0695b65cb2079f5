// Runs CUDA kernels on the CPU, one fiber per CUDA thread, to test them without a GPU: g++ reads this header where
// nvcc reads its own (csrc/cuda/common.cuh chooses), and the kernels' bodies stay as they are.
//
// A thread runs until it waits: at a barrier for its block, at a shuffle, a vote or __syncwarp for its warp. Then the
// ready thread of the highest priority goes on. The priorities are the order that the tests vary: a result that depends
// on them is a race. (Taking turns instead would hide a write after read: all threads then keep step.)
#pragma once

#include <sys/time.h>

#include <cmath>
#include <csetjmp>
#include <csignal>
#include <numeric>
#include <random>
#include <source_location>

#include "memory.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))

#define SUPERNET_SHARED(type, name, count) \
  static char name##_key;                  \
  type* const name = static_cast<type*>(simt::shared(&name##_key, #name, sizeof(type) * (count)))
#define SUPERNET_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(simt::dynamic_shared())

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline uint3 threadIdx, blockIdx; // of the thread that runs
inline dim3 blockDim, gridDim;

template <typename T>
T rsqrt(T x) {
  return 1 / std::sqrt(x);
}

namespace simt {

struct Stream {};
struct Failure {
  std::string what;
};
using Place = std::source_location;

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr size_t kCountedBlocks = 61; // of a launch, spread evenly, when counting; a prime, to meet tiles of each kind
constexpr int64_t kMaxSteps = 5000000; // waits of threads in one call: a test should be quick

enum class Order { forward, reverse, random };
enum class Wait { none, barrier, warp, returned };

struct Thread {
  Fiber fiber;
  unsigned rank; // its place in the order of priorities
  Wait wait;
  Place place; // where it waits
  uint64_t value, result; // given to the others, got from them
  unsigned source; // lane
};

struct Launch {
  const void* kernel;
  int64_t blocks, threads, dynamic_bytes;
  int64_t idle; // blocks that stored nothing to global memory, when counting
  int64_t copied; // bytes that a block had asked copies for when it waited, in the mean
};

struct State {
  Order thread_order = Order::forward;
  std::mt19937_64 rng;
  double limit = 60; // seconds of a launch
  int64_t steps = 0;
  int launches = 0;
  int multiprocessors = 132, block_shared = 113 << 10; // of the device that plans are made for
  std::vector<Launch> history; // since the last reset

  std::vector<Thread> threads = std::vector<Thread>(kMaxThreads);
  Fiber main;
  unsigned count = 0, current = 0; // threads of a block, the one that runs
  unsigned at_barrier = 0, in_warp[kMaxThreads / 32]; // how many wait
  std::vector<unsigned> order; // thread of each rank
  uint64_t ready[kMaxThreads / 64]; // by rank
  void (*body)(const void*) = nullptr;
  const void* closure = nullptr;
  size_t dynamic_bytes = 0;
  bool in_fiber = false;
  std::string failure;
  sigjmp_buf fault;
};
inline State s;

inline std::string who() {
  const auto& b = blockIdx;
  return ", in thread " + std::to_string(threadIdx.x) + " of block (" + std::to_string(b.x) + "," +
      std::to_string(b.y) + "," + std::to_string(b.z) + ")";
}

[[noreturn]] inline void fail(const std::string& what) {
  if (s.in_fiber) { // which is left for good; run_block throws
    s.failure = what + who();
    s.threads[s.current].fiber.switch_to(s.main);
  }
  throw Failure{what};
}

inline void require(bool condition, const char* otherwise) {
  if (!condition) {
    fail(otherwise);
  }
}

inline void* shared(const void* key, const char* name, size_t bytes) {
  return shared_variable(key, name, bytes, s.launches);
}

inline void* dynamic_shared() {
  return shared_variable(&s.dynamic_bytes, "dynamic shared memory", s.dynamic_bytes, s.launches);
}

template <typename T>
__forceinline__ const T* to_read(const T* p) {
  return reinterpret_cast<const T*>(access(p, sizeof(T), alignof(T), false, threadIdx.x));
}

template <typename T>
__forceinline__ T* to_write(T* p) {
  return reinterpret_cast<T*>(access(p, sizeof(T), alignof(T), true, threadIdx.x));
}

// ---- threads ----

// They should be at one place, and are at several.
[[noreturn]] inline void fail_divergent(unsigned first, unsigned count) {
  std::map<std::string, unsigned> places;
  bool barrier = false;
  for (unsigned t = first; t < first + count; ++t) {
    const auto& [wait, place] = std::tie(s.threads[t].wait, s.threads[t].place);
    barrier |= wait == Wait::barrier;
    const std::string file = place.file_name();
    ++places
        [wait == Wait::returned   ? "returned"
             : wait == Wait::none ? "run"
                                  : "wait at " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line())];
  }
  std::string what = barrier ? "divergent barrier: " : "divergent shuffle, vote or __syncwarp: ";
  for (const auto& [where, number] : places) {
    what += std::to_string(number) + " threads " + where + "; ";
  }
  fail(what.substr(0, what.size() - 2));
}

inline void set_ready(const Thread& t, bool ready) {
  const auto bit = uint64_t(1) << t.rank % 64;
  ready ? s.ready[t.rank / 64] |= bit : s.ready[t.rank / 64] &= ~bit;
}

// Leaves the running thread for the ready one of the highest priority, or for run_block when all have returned.
inline void reschedule() {
  auto& self = s.threads[s.current].fiber;
  for (unsigned word = 0; word * 64 < s.count; ++word) {
    if (s.ready[word]) {
      const unsigned next = s.order[word * 64 + __builtin_ctzll(s.ready[word])];
      if (next != s.current) {
        s.current = threadIdx.x = next;
        self.switch_to(s.threads[next].fiber);
      }
      return;
    }
  }
  if (std::any_of(s.threads.begin(), s.threads.begin() + s.count, [](auto& t) { return t.wait != Wait::returned; })) {
    fail_divergent(0, s.count);
  }
  self.switch_to(s.main);
}

inline void run_thread() {
  Fiber::entered();
  s.body(s.closure);
  s.threads[s.current].wait = Wait::returned;
  set_ready(s.threads[s.current], false);
  reschedule();
}

// Waits until all of the group's threads, [first, first + count), wait in the same place; then `meet` runs for all.
template <typename Meet>
__attribute__((noinline)) uint64_t
wait(Wait what, uint64_t value, unsigned first, unsigned count, unsigned& arrived, const Place& place, Meet meet) {
  auto& self = s.threads[s.current];
  self.wait = what;
  self.value = value;
  self.place = place;
  set_ready(self, false);
  require(++s.steps <= kMaxSteps || memory.counting, "more than 5 million waits of threads: take a smaller shape");
  if (++arrived == count) {
    arrived = 0;
    const auto group = s.threads.begin() + first;
    if (std::any_of(group, group + count, [&](auto& t) {
          return t.place.line() != place.line() || std::strcmp(t.place.file_name(), place.file_name()) != 0;
        })) {
      fail_divergent(first, count);
    }
    meet(group);
    std::for_each(group, group + count, [](auto& t) {
      t.wait = Wait::none;
      set_ready(t, true);
    });
  }
  reschedule();
  return self.result;
}

// At a barrier each thread learns for how many the predicate holds.
inline unsigned wait_block(bool predicate, const Place& place) {
  return wait(Wait::barrier, predicate, 0, s.count, s.at_barrier, place, [](auto block) {
    const auto count = std::accumulate(
        block, block + s.count, uint64_t(0), [](auto sum, auto& t) { return sum + t.value; });
    std::for_each(block, block + s.count, [&](auto& t) { t.result = count; });
  });
}

template <typename Meet>
uint64_t wait_warp(unsigned mask, uint64_t value, const Place& place, Meet meet) {
  require(mask == kFullMask, "a mask that is not full");
  const unsigned first = s.current / 32 * 32;
  return wait(Wait::warp, value, first, 32, s.in_warp[first / 32], place, meet);
}

// Each lane learns which lanes hold the predicate.
inline unsigned vote(unsigned mask, bool predicate, const Place& place) {
  return wait_warp(mask, predicate, place, [](auto warp) {
    uint64_t votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
      votes |= warp[lane].value << lane;
    }
    std::for_each(warp, warp + 32, [&](auto& t) { t.result = votes; });
  });
}

// Each lane gets the value of lane `source` of its segment of `width` lanes, or its own where there is none.
template <typename T>
T shuffle(unsigned mask, T value, int source, int width, const Place& place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const int lane = s.current % 32;
  s.threads[s.current].source = source >= 0 && source < width ? lane / width * width + source : lane;
  bits = wait_warp(mask, bits, place, [](auto warp) {
    std::for_each(warp, warp + 32, [&](auto& t) { t.result = warp[t.source].value; });
  });
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// ---- launches ----

inline std::vector<unsigned> in_order(unsigned n) {
  std::vector<unsigned> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (s.thread_order == Order::reverse) {
    std::reverse(order.begin(), order.end());
  } else if (s.thread_order == Order::random) {
    std::shuffle(order.begin(), order.end(), s.rng);
  }
  return order;
}

inline void run_block() {
  begin_block(s.launches);
  s.order = in_order(s.count);
  std::fill(std::begin(s.ready), std::end(s.ready), 0);
  std::fill(std::begin(s.in_warp), std::end(s.in_warp), 0);
  s.at_barrier = 0;
  for (unsigned rank = 0; rank < s.count; ++rank) {
    auto& t = s.threads[s.order[rank]];
    t.rank = rank;
    t.wait = Wait::none;
    t.fiber.start(run_thread);
    set_ready(t, true);
  }
  s.current = threadIdx.x = s.order[0];
  s.in_fiber = true;
  s.main.switch_to(s.threads[s.current].fiber);
  s.in_fiber = false;
  if (!s.failure.empty()) {
    throw Failure{s.failure};
  }
  end_block(s.launches);
}

inline void on_signal(int signal, siginfo_t* info, [[maybe_unused]] void* context) {
  std::string verb = "touches ";
#if defined(__x86_64__) && defined(__linux__)
  verb = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "writes " : "reads ";
#endif
  s.failure = signal == SIGVTALRM ? "no end: does it wait in a loop for another thread?"
                                  : verb + describe(static_cast<char*>(info->si_addr));
  s.failure += who();
  siglongjmp(s.fault, 1);
}

// While one lives, a fault or a launch without end becomes a failure. ASan keeps faults for itself.
class Signals {
 public:
  Signals() {
    stack_t alternate = {};
    alternate.ss_sp = stack_;
    alternate.ss_size = sizeof(stack_);
    sigaltstack(&alternate, &old_stack_);
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 3; ++i) {
      sigaction(kSignals[i], &action, &old_[i]);
    }
    set_timer(s.limit);
  }
  ~Signals() {
    set_timer(0);
    for (int i = 0; i < 3; ++i) {
      sigaction(kSignals[i], &old_[i], nullptr);
    }
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  static constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGVTALRM};
  static void set_timer(double seconds) {
    const auto whole = std::floor(seconds);
    const itimerval timer = {{0, 0}, {time_t(whole), suseconds_t(1e6 * (seconds - whole))}};
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
  }
  char stack_[64 << 10];
  stack_t old_stack_;
  struct sigaction old_[3];
};

template <typename Body>
void launch(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes, const Body& body) {
  s.count = block.x;
  require(grid.x > 0 && grid.y > 0 && grid.z > 0, "a launch of no block");
  require(grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535, "a grid beyond CUDA's limits");
  require(block.y == 1 && block.z == 1, "a block of more than one dimension");
  require(s.count > 0 && s.count % 32 == 0 && s.count <= kMaxThreads, "a block that is not 1 to 32 whole warps");
  gridDim = grid;
  blockDim = block;
  s.dynamic_bytes = dynamic_shared_bytes;
  s.body = [](const void* closure) { (*static_cast<const Body*>(closure))(); };
  s.closure = &body;
  s.failure.clear();
  s.main.adopt();
  ++s.launches;
#ifndef __SANITIZE_ADDRESS__
  const Signals signals;
  if (sigsetjmp(s.fault, 1)) {
    s.in_fiber = false;
    throw Failure{s.failure};
  }
#endif
  auto blocks = in_order(grid.x * grid.y * grid.z);
  const size_t all = blocks.size(), run = memory.counting ? std::min(all, kCountedBlocks) : all;
  std::vector<int64_t> before;
  for_counts([&](int64_t& count) { before.push_back(count); });
  int64_t idle = 0;
  memory.copies_a_wait = 0;
  for (size_t i = 0; i < run; ++i) {
    const unsigned b = blocks[i * all / run];
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    const auto stored = memory.counts[1].requests;
    run_block();
    idle += memory.counts[1].requests == stored;
  }
  s.history.push_back(
      {kernel, int64_t(all), s.count, int64_t(dynamic_shared_bytes), idle * int64_t(all) / int64_t(run),
       16 * memory.copies_a_wait});
  if (run < all) { // the sample stands for all
    auto from = before.begin();
    for_counts([&](int64_t& count) {
      count = *from + (count - *from) * int64_t(all) / int64_t(run);
      ++from;
    });
  }
  size_t shared_bytes = 0;
  for (const auto& r : memory.shared) {
    shared_bytes += r.launch == s.launches ? r.bytes : 0;
  }
  require(shared_bytes <= (48 << 10) + s.dynamic_bytes, "more than 48 KiB of static shared memory");
  require(shared_bytes <= size_t(s.block_shared), "more shared memory than block_shared() allows");
}

} // namespace simt

// ---- intrinsics ----

#define SIMT_PLACE const simt::Place &place = simt::Place::current()

inline void __syncthreads(SIMT_PLACE) {
  simt::wait_block(false, place);
}
inline int __syncthreads_count(int predicate, SIMT_PLACE) {
  return simt::wait_block(predicate != 0, place);
}
inline int __syncthreads_or(int predicate, SIMT_PLACE) {
  return simt::wait_block(predicate != 0, place) > 0;
}
inline int __syncthreads_and(int predicate, SIMT_PLACE) {
  return simt::wait_block(predicate != 0, place) == simt::s.count;
}
inline void __syncwarp(unsigned mask = simt::kFullMask, SIMT_PLACE) {
  simt::vote(mask, false, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_PLACE) {
  return simt::vote(mask, predicate != 0, place);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_PLACE) {
  return simt::vote(mask, predicate != 0, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_PLACE) {
  return simt::vote(mask, predicate != 0, place) == simt::kFullMask;
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_PLACE) {
  return simt::shuffle(mask, value, source & (width - 1), width, place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_PLACE) {
  return simt::shuffle(mask, value, int(threadIdx.x % width + delta), width, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_PLACE) {
  return simt::shuffle(mask, value, int(threadIdx.x % width) - int(delta), width, place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_PLACE) {
  return simt::shuffle(mask, value, int(threadIdx.x % width) ^ bits, width, place);
}
