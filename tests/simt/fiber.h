// A stack to run on, and the switch from one to another: a few instructions on x86-64, ucontext (6 times slower)
// elsewhere.
#pragma once

#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstring>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define __sanitizer_start_switch_fiber(fake, stack, bytes)
#define __sanitizer_finish_switch_fiber(fake, stack, bytes)
#endif

namespace simt {

constexpr size_t kPage = 4096;

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)

extern "C" __attribute__((visibility("hidden"))) void simt_switch(void** from, void* to);
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
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    auto** const top = reinterpret_cast<void**>(stack + bytes); // six registers, the entry, no return from it
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
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    makecontext(&context, entry, 0);
  }
  void leave_for(Context& to) {
    swapcontext(&context, &to.context);
  }
};

#endif

// ASan is told of every switch, and forgets what a fiber that was left for good had on its stack.
struct Fiber {
  static constexpr size_t kStack = 256 << 10;
  Context context;
  char* stack = nullptr;
  size_t bytes = kStack;

  void start(void (*entry)()) {
    if (!stack) { // above a page that stays unmapped
      stack = static_cast<char*>(
          mmap(nullptr, kStack + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      stack += kPage;
      mprotect(stack, kStack, PROT_READ | PROT_WRITE);
    }
    ASAN_UNPOISON_MEMORY_REGION(stack, kStack);
    context.prepare(stack, kStack, entry);
  }
  // The thread that called, whose stack is its own.
  void adopt() {
    pthread_attr_t attributes;
    void* base;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &base, &bytes);
    pthread_attr_destroy(&attributes);
    stack = static_cast<char*>(base);
  }
  void switch_to(Fiber& to) {
    [[maybe_unused]] void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to.stack, to.bytes);
    context.leave_for(to.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
  }
  static void entered() {
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  }
};

} // namespace simt
