// Runs CUDA kernels on the CPU, one fiber per CUDA thread, to prove them without a GPU: g++ reads this header where
// nvcc reads its own (csrc/cuda_common.cuh chooses), and the kernels' bodies stay as they are.
//
// A thread runs until it waits: at a barrier for its block, at a shuffle, a vote or __syncwarp for its warp. Then
// the ready thread of the highest priority goes on. The priorities are the order that the tests vary: a result that
// depends on them is a race. (Taking turns instead would hide a write after read: all threads then keep step.)
//
// Memory is made to tell: shared memory and outputs hold 0xff, a NaN, before a block or launch; no page before or
// behind a buffer may be touched; inputs cannot be written. Kernels get global pointers that point nowhere, and only
// load() and store() know (to_read, to_write) where the memory is: they check the bounds to the byte, and count.
#pragma once

#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// ---- CUDA's names ----

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline uint3 threadIdx, blockIdx; // of the thread that runs
inline dim3 blockDim, gridDim;

inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}

#define SUPERNET_SHARED(type, name, count) \
  static char name##_key;                  \
  type* const name = static_cast<type*>(simt::shared(&name##_key, #name, sizeof(type) * (count)))
#define SUPERNET_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(simt::dynamic_shared())

namespace simt {

struct Stream {};
struct Failure {
  std::string what;
};

constexpr size_t kPage = 4096;
constexpr size_t kStack = 256 << 10;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kArena = size_t(1) << 30;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr int64_t kMaxSteps = 5000000; // waits of threads in one call: a test should be quick

enum class Order { forward, reverse, random };

// ---- fibers ----

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
extern "C" __attribute__((visibility("hidden"))) void simt_switch(void** save_sp, void* sp);
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
struct Context {
  void* sp = nullptr;
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void prepare(void (*entry)()) {
    auto** top = reinterpret_cast<void**>(stack + stack_bytes);
    std::memset(top - 8, 0, 64);
    top[-2] = reinterpret_cast<void*>(entry);
    sp = top - 8;
  }
  void leave_for(Context& to) {
    simt_switch(&sp, to.sp);
  }
};
#else
struct Context {
  ucontext_t context;
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void prepare(void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stack_bytes;
    makecontext(&context, entry, 0);
  }
  void leave_for(Context& to) {
    swapcontext(&context, &to.context);
  }
};
#endif

enum class Wait { none, barrier, warp, returned };

struct Thread {
  Context context;
  uint3 index;
  unsigned rank; // place in the order of priorities
  Wait wait;
  const char* file; // where it waits
  int line;
  uint64_t value, result; // given to and got from the others
  unsigned source; // lane
  std::map<void*, int> accesses; // so far, by place in the code
};

// A buffer between pages that nobody may touch.
struct Region {
  std::string name;
  char* base;
  size_t bytes;
  char *low, *high; // the pages that hold it
  const void* key;
  int launch;
};

struct Counts {
  int64_t requests, sectors, bytes, block_sectors;
};

struct State {
  std::vector<Thread> threads;
  Context main;
  unsigned count = 0, current = 0;
  unsigned at_barrier = 0, in_warp[kMaxThreads / 32] = {}; // how many wait
  std::vector<unsigned> order; // rank → thread
  uint64_t ready[kMaxThreads / 64]; // by rank
  void (*body)(const void*) = nullptr;
  const void* closure = nullptr;
  bool running = false;
  std::string failure;
  sigjmp_buf fault;

  char* arena = nullptr; // the memory; what kernels are given lies kArena above, and is not mapped
  size_t used = 0;
  std::vector<Region> buffers, shared;
  std::vector<int> buffer_of; // by page of the arena
  size_t dynamic_bytes = 0;
  int launches = 0;

  Order thread_order = Order::forward;
  std::mt19937_64 rng;
  int64_t steps = 0;
  double limit = 60; // seconds
  bool counting = false;
  Counts counts[2] = {}; // loads, stores
  std::map<std::tuple<unsigned, void*, int, bool>, std::set<uintptr_t>> requests; // of the block
};
inline State s;

inline std::string at(const uint3& i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

inline void switch_context(Context& from, Context& to) {
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, to.stack, to.stack_bytes);
#endif
  from.leave_for(to);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

[[noreturn]] inline void fail(const std::string& what) {
  if (s.running) { // in a fiber: it is left for good
    s.failure = what + ", in thread " + at(threadIdx) + " of block " + at(blockIdx);
    s.running = false;
    switch_context(s.threads[s.current].context, s.main);
  }
  throw Failure{what};
}

inline void require(bool condition, const char* otherwise) {
  if (!condition) {
    fail(otherwise);
  }
}

inline std::string place(const Thread& t) {
  const char* const slash = std::strrchr(t.file, '/');
  return std::string(slash ? slash + 1 : t.file) + ":" + std::to_string(t.line);
}

// Nobody can go on, or a group met in different places: says who is where.
[[noreturn]] inline void fail_divergent(unsigned first, unsigned count) {
  std::map<std::string, unsigned> places;
  bool barrier = false;
  for (unsigned t = first; t < first + count; ++t) {
    const auto& thread = s.threads[t];
    barrier |= thread.wait == Wait::barrier;
    ++places[thread.wait == Wait::returned ? "returned"
            : thread.wait == Wait::none    ? "run"
                                           : "wait at " + place(thread)];
  }
  std::string what = barrier ? "divergent barrier:" : "divergent shuffle, vote or __syncwarp:";
  for (const auto& [where, number] : places) {
    what += " " + std::to_string(number) + " threads " + where + ",";
  }
  what.pop_back();
  fail(what);
}

inline void set_ready(const Thread& t, bool ready) {
  const auto bit = uint64_t(1) << t.rank % 64;
  ready ? s.ready[t.rank / 64] |= bit : s.ready[t.rank / 64] &= ~bit;
}

// Leaves the running thread for the ready one of the highest priority, or for launch() when all have returned.
inline void reschedule() {
  auto& from = s.threads[s.current].context;
  for (unsigned word = 0; word * 64 < s.count; ++word) {
    if (s.ready[word]) {
      const unsigned next = s.order[word * 64 + __builtin_ctzll(s.ready[word])];
      if (next != s.current) {
        s.current = next;
        threadIdx = s.threads[next].index;
        switch_context(from, s.threads[next].context);
      }
      return;
    }
  }
  if (std::any_of(s.threads.begin(), s.threads.begin() + s.count, [](auto& t) { return t.wait != Wait::returned; })) {
    fail_divergent(0, s.count);
  }
  s.running = false;
  switch_context(from, s.main);
}

inline void start_thread() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  s.body(s.closure);
  auto& self = s.threads[s.current];
  self.wait = Wait::returned;
  set_ready(self, false);
  reschedule();
}

// Waits until all of the group's threads, [first, first + count), wait in the same place; then `meet` runs for all.
template <typename Meet>
__attribute__((noinline)) uint64_t
wait(Wait what, uint64_t value, unsigned first, unsigned count, unsigned& arrived, const char* file, int line, Meet meet) {
  auto& self = s.threads[s.current];
  self.wait = what;
  self.value = value;
  self.file = file;
  self.line = line;
  set_ready(self, false);
  if (++s.steps > kMaxSteps) {
    fail("more than 5 million waits of threads: take a smaller shape");
  }
  if (++arrived == count) {
    arrived = 0;
    const auto group = s.threads.begin() + first;
    if (std::any_of(group, group + count, [&](auto& t) { return t.wait != what || place(t) != place(self); })) {
      fail_divergent(first, count);
    }
    meet();
    std::for_each(group, group + count, [](auto& t) {
      t.wait = Wait::none;
      set_ready(t, true);
    });
  }
  reschedule();
  return s.threads[s.current].result;
}

// ---- memory ----

inline Region map_region(const char* name, size_t bytes, const void* key) {
  const size_t pages = (bytes + kPage - 1) / kPage * kPage;
  auto* const all = static_cast<char*>(
      mmap(nullptr, pages + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  mprotect(all + kPage, pages, PROT_READ | PROT_WRITE);
  char* const high = all + kPage + pages;
  return {name, high - (bytes + 31) / 32 * 32, bytes, all + kPage, high, key, 0};
}

inline void poison(const Region& r) {
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(r.low, r.high - r.low);
#endif
  std::memset(r.low, 0xff, r.high - r.low);
#ifdef __SANITIZE_ADDRESS__
  ASAN_POISON_MEMORY_REGION(r.low, r.base - r.low);
  ASAN_POISON_MEMORY_REGION(r.base + r.bytes, r.high - r.base - r.bytes);
#endif
}

// The block's instance of a shared variable, known by the address of a static one in its place.
inline void* shared(const void* key, const char* name, size_t bytes) {
  auto it = std::find_if(s.shared.begin(), s.shared.end(), [&](auto& r) { return r.key == key; });
  if (it == s.shared.end()) {
    it = s.shared.insert(it, map_region(name, bytes, key));
  }
  if (it->launch != s.launches) {
    it->launch = s.launches;
    poison(*it);
  }
  return it->base;
}

inline void* dynamic_shared() {
  return shared(reinterpret_cast<const void*>(s.dynamic_bytes), "dynamic shared memory", s.dynamic_bytes);
}

// What an access that is not allowed touched, in words.
inline std::string describe(const char* p) {
  for (const auto* regions : {&s.buffers, &s.shared}) {
    for (const auto& r : *regions) {
      if (p >= r.base + r.bytes && p < r.high + kPage) {
        return std::to_string(p - r.base - r.bytes + 1) + " bytes behind the end of '" + r.name + "'";
      }
      if (p < r.base && p >= r.low - kPage) {
        return std::to_string(r.base - p) + " bytes in front of '" + r.name + "'";
      }
      if (p >= r.base && p < r.base + r.bytes) {
        return "the input '" + r.name + "'";
      }
    }
  }
  const bool global = p >= s.arena + kArena && p < s.arena + 2 * kArena;
  return global ? "global memory otherwise than by load() and store()" : "unknown memory";
}

inline void on_fault(int signal, siginfo_t* info, void* context) {
  bool write = false;
#if defined(__x86_64__) && defined(__linux__)
  write = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#endif
  s.failure = signal == SIGVTALRM ? "no end: does it wait for another block or thread in a loop"
                                  : (write ? "writes " : "reads ") + describe(static_cast<char*>(info->si_addr));
  s.failure += ", in thread " + at(threadIdx) + " of block " + at(blockIdx);
  siglongjmp(s.fault, 1);
}

// Where the memory of a global pointer is.
__attribute__((noinline)) inline char* access(const void* pointer, size_t bytes, size_t alignment, bool write) {
  const char* const verb = write ? "writes " : "reads ";
  const auto offset = static_cast<size_t>(static_cast<const char*>(pointer) - s.arena - kArena);
  if (offset >= kArena || s.buffer_of[offset / kPage] < 0) {
    fail(verb + std::string(pointer ? "what is no buffer" : "a null pointer"));
  }
  char* const p = s.arena + offset;
  const auto& r = s.buffers[s.buffer_of[offset / kPage]];
  if (p < r.base || p + bytes > r.base + r.bytes) {
    fail(verb + describe(p < r.base ? p : p + bytes - 1));
  }
  if (offset % alignment) {
    fail(verb + std::to_string(bytes) + " bytes at once of '" + r.name + "' where it is not aligned for that");
  }
  if (s.counting) {
    auto* const site = __builtin_return_address(0);
    auto& request = s.requests[{s.current / 32, site, s.threads[s.current].accesses[site]++, write}];
    const auto first = offset / 32;
    for (auto sector = first; sector <= (offset + bytes - 1) / 32; ++sector) {
      request.insert(sector);
    }
    s.counts[write].bytes += bytes;
  }
  return p;
}

template <typename T>
__forceinline__ const T* to_read(const T* p) {
  return reinterpret_cast<const T*>(access(p, sizeof(T), alignof(T), false));
}
template <typename T>
__forceinline__ T* to_write(T* p) {
  return reinterpret_cast<T*>(access(p, sizeof(T), alignof(T), true));
}

// ---- launch ----

// A new block: no thread has begun, no shared memory holds anything.
inline void run_block() {
  for (const auto& r : s.shared) {
    if (r.launch == s.launches) {
      poison(r);
    }
  }
  s.order.resize(s.count);
  for (unsigned t = 0; t < s.count; ++t) {
    s.order[t] = s.thread_order == Order::reverse ? s.count - 1 - t : t;
  }
  if (s.thread_order == Order::random) {
    std::shuffle(s.order.begin(), s.order.end(), s.rng);
  }
  std::fill(std::begin(s.ready), std::end(s.ready), 0);
  std::fill(std::begin(s.in_warp), std::end(s.in_warp), 0);
  s.at_barrier = 0;
  for (unsigned rank = 0; rank < s.count; ++rank) {
    auto& t = s.threads[s.order[rank]];
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(t.context.stack, kStack);
#endif
    t.context.prepare(start_thread);
    t.rank = rank;
    t.wait = Wait::none;
    t.accesses.clear();
    set_ready(t, true);
  }
  s.current = s.order[0];
  threadIdx = s.threads[s.current].index;
  s.running = true;
  switch_context(s.main, s.threads[s.current].context);
  s.running = false;
  if (!s.failure.empty()) {
    throw Failure{s.failure};
  }
  for (const auto& r : s.shared) {
    // ASan knows the bytes between the end and the next page already.
#ifndef __SANITIZE_ADDRESS__
    if (std::any_of(r.base + r.bytes, r.high, [](char c) { return c != '\xff'; })) {
      throw Failure{"writes behind the end of '" + r.name + "', in block " + at(blockIdx)};
    }
#endif
  }
  std::set<std::pair<uintptr_t, bool>> of_block;
  for (const auto& [key, sectors] : s.requests) {
    const bool write = std::get<3>(key);
    s.counts[write].requests += 1;
    s.counts[write].sectors += sectors.size();
    for (const auto sector : sectors) {
      s.counts[write].block_sectors += of_block.insert({sector, write}).second;
    }
  }
  s.requests.clear();
}

inline void run_blocks(dim3 grid) {
  const auto blocks = uint64_t(grid.x) * grid.y * grid.z;
  std::vector<uint64_t> order(blocks);
  for (uint64_t b = 0; b < blocks; ++b) {
    order[b] = s.thread_order == Order::reverse ? blocks - 1 - b : b;
  }
  if (s.thread_order == Order::random) {
    std::shuffle(order.begin(), order.end(), s.rng);
  }
  for (const auto b : order) {
    blockIdx = {
        static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
        static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
  }
}

// Signals become failures; with ASan they stay its own.
struct CatchFaults {
  char stack[64 << 10];
  stack_t old_stack;
  struct sigaction old[3];
  static constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGVTALRM};
  CatchFaults() {
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof(stack);
    sigaltstack(&alternate, &old_stack);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 3; ++i) {
      sigaction(kSignals[i], &action, &old[i]);
    }
    set_timer(s.limit);
  }
  ~CatchFaults() {
    set_timer(0);
    for (int i = 0; i < 3; ++i) {
      sigaction(kSignals[i], &old[i], nullptr);
    }
    sigaltstack(&old_stack, nullptr);
  }
  static void set_timer(double seconds) {
    const auto whole = static_cast<time_t>(seconds);
    const itimerval timer = {{0, 0}, {whole, static_cast<suseconds_t>(1e6 * (seconds - whole))}};
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
  }
};

template <typename Body>
void launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const Body& body) {
  s.count = block.x * block.y * block.z;
  require(grid.x > 0 && grid.y > 0 && grid.z > 0, "a launch of no block");
  require(grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535, "a grid beyond CUDA's limits");
  require(block.y == 1 && block.z == 1, "a block of more than one dimension");
  require(s.count > 0 && s.count % 32 == 0 && s.count <= kMaxThreads, "a block that is not 1 to 32 whole warps");
  gridDim = grid;
  blockDim = block;
  s.dynamic_bytes = dynamic_shared_bytes;
  s.body = [](const void* closure) { (*static_cast<const Body*>(closure))(); };
  s.closure = &body;
  ++s.launches;
  s.failure.clear();
  if (s.threads.empty()) {
    s.threads.resize(kMaxThreads);
    auto* stack = static_cast<char*>(mmap(
        nullptr, kMaxThreads * (kStack + kPage), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (unsigned t = 0; t < kMaxThreads; ++t, stack += kStack + kPage) {
      mprotect(stack + kPage, kStack, PROT_READ | PROT_WRITE);
      s.threads[t].context.stack = stack + kPage;
      s.threads[t].context.stack_bytes = kStack;
      s.threads[t].index = {t, 0, 0};
    }
  }
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  void* stack;
  pthread_attr_getstack(&attributes, &stack, &s.main.stack_bytes);
  s.main.stack = static_cast<char*>(stack);
  pthread_attr_destroy(&attributes);
  run_blocks(grid);
#else
  const CatchFaults faults;
  if (sigsetjmp(s.fault, 1)) {
    s.running = false;
    throw Failure{s.failure};
  }
  run_blocks(grid);
#endif
  size_t shared_bytes = 0;
  for (const auto& r : s.shared) {
    shared_bytes += r.launch == s.launches ? r.bytes : 0;
  }
  require(shared_bytes - s.dynamic_bytes <= 48 << 10, "more than 48 KiB of static shared memory");
  require(shared_bytes <= 99 << 10, "more than 99 KiB of shared memory in a block, the limit of sm_86 and sm_120");
}

} // namespace simt

// ---- intrinsics ----

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::wait(simt::Wait::barrier, 0, 0, simt::s.count, simt::s.at_barrier, file, line, [] {});
}

inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return static_cast<int>(simt::wait(
      simt::Wait::barrier, predicate != 0, 0, simt::s.count, simt::s.at_barrier, file, line, [] {
        uint64_t count = 0;
        for (unsigned t = 0; t < simt::s.count; ++t) {
          count += simt::s.threads[t].value;
        }
        for (unsigned t = 0; t < simt::s.count; ++t) {
          simt::s.threads[t].result = count;
        }
      }));
}

inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return __syncthreads_count(predicate, file, line) > 0;
}

inline int __syncthreads_and(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return __syncthreads_count(predicate, file, line) == static_cast<int>(simt::s.count);
}

namespace simt {

template <typename Meet>
uint64_t wait_warp(unsigned mask, uint64_t value, const char* file, int line, Meet meet) {
  require(mask == kFullMask, "a mask that is not full");
  const unsigned first = s.current / 32 * 32;
  return wait(Wait::warp, value, first, 32, s.in_warp[first / 32], file, line, [&] { meet(&s.threads[first]); });
}

// Each lane gets the value of lane `source`.
template <typename T>
T shuffle(unsigned mask, T value, unsigned source, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  s.threads[s.current].source = source;
  bits = wait_warp(mask, bits, file, line, [](Thread* warp) {
    for (int lane = 0; lane < 32; ++lane) {
      warp[lane].result = warp[warp[lane].source].value;
    }
  });
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

} // namespace simt

template <typename T>
T __shfl_sync(
    unsigned mask, T value, int source, int width = 32, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = simt::s.current % 32;
  return simt::shuffle(mask, value, lane / width * width + source % width, file, line);
}

template <typename T>
T __shfl_down_sync(
    unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = simt::s.current % 32;
  return simt::shuffle(mask, value, lane % width + delta < unsigned(width) ? lane + delta : lane, file, line);
}

template <typename T>
T __shfl_up_sync(
    unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = simt::s.current % 32;
  return simt::shuffle(mask, value, lane % width >= delta ? lane - delta : lane, file, line);
}

template <typename T>
T __shfl_xor_sync(
    unsigned mask, T value, int bits, int width = 32, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const unsigned lane = simt::s.current % 32;
  const unsigned source = lane ^ bits;
  return simt::shuffle(mask, value, source < lane / width * width + width ? source : lane, file, line);
}

inline unsigned
__ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return static_cast<unsigned>(simt::wait_warp(mask, predicate != 0, file, line, [](simt::Thread* warp) {
    uint64_t votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
      votes |= warp[lane].value << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      warp[lane].result = votes;
    }
  }));
}

inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, file, line) == simt::kFullMask;
}

inline void __syncwarp(
    unsigned mask = simt::kFullMask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::wait_warp(mask, 0, file, line, [](simt::Thread*) {});
}
