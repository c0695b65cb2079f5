// Which instruction set the CPU kernels use.
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <string_view>

// The build for the sanitizers has one set, the generic.
#if defined(__x86_64__) && !defined(SUPERNET_GENERIC_ONLY)
#define SUPERNET_X86_SETS
#endif

#if defined(SUPERNET_X86_SETS) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/block_kernels.h"
#include "cpu/int8_kernels.h"

namespace supernet::cpu {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"};

#if defined(SUPERNET_X86_SETS)
// AMX's products of bfloat16 and of bytes, and the system's leave to use its tiles.
bool amx_usable() {
#if defined(__linux__)
  constexpr unsigned kNeeded = 1u << 24 | 1u << 25 | 1u << 22; // tiles, bytes and bfloat16 in leaf 7
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kNeeded) != kNeeded) {
    return false;
  }
  constexpr long kRequestPermission = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

Capability of_processor() {
#if defined(SUPERNET_X86_SETS)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (!__builtin_cpu_supports("avx512vnni")) {
      return Capability::avx512;
    }
    if (!__builtin_cpu_supports("avx512bf16")) {
      return Capability::avx512_vnni;
    }
    static const bool amx = amx_usable();
    return amx ? Capability::amx : Capability::avx512_bf16;
  }
  if (avx2) {
    return Capability::avx2;
  }
#endif
  return Capability::generic;
}

Capability parse(std::string_view name, const char* source) {
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  TORCH_CHECK(
      found != std::end(kNames), source, " should be generic, avx2, avx512, avx512_vnni, avx512_bf16 or amx, got '", name, "'");
  const auto asked = static_cast<Capability>(found - std::begin(kNames));
  const auto best = of_processor();
  TORCH_CHECK(
      asked <= best, source, " is ", name, ", but this machine has ", kNames[static_cast<int>(best)],
      " at most");
  return asked;
}

std::atomic<Capability>& current() {
  static std::atomic<Capability> value = [] {
    const char* wish = std::getenv("SUPERNET_CPU_CAPABILITY");
    return wish && *wish ? parse(wish, "SUPERNET_CPU_CAPABILITY") : of_processor();
  }();
  return value;
}

} // namespace

Capability capability() {
  return current().load(std::memory_order_relaxed);
}

const char* capability_name() {
  return kNames[static_cast<int>(capability())];
}

void set_capability(std::string_view name) {
  current() = parse(name, "the CPU capability");
}

const FloatTables& float_tables() {
#if defined(SUPERNET_X86_SETS)
  switch (capability()) {
    case Capability::amx:
    case Capability::avx512_bf16:
    case Capability::avx512_vnni:
    case Capability::avx512:
      return avx512::float_tables;
    case Capability::avx2:
      return avx2::float_tables;
    case Capability::generic:
      break;
  }
#endif
  return generic::float_tables;
}

const FloatRowTables& row_tables() {
#if defined(SUPERNET_X86_SETS)
  if (capability() == Capability::avx512_bf16) {
    return avx512_bf16::row_tables;
  }
#endif
  return float_tables().rows;
}

const BlockKernels* block_kernels() {
#if defined(SUPERNET_X86_SETS)
  switch (capability()) {
    case Capability::amx:
      return &amx::block_kernels;
    case Capability::avx512_bf16:
      return &avx512_bf16::block_kernels;
    default:
      break;
  }
#endif
  return nullptr;
}

const Int8Kernels& int8_kernels() {
#if defined(SUPERNET_X86_SETS)
  switch (capability()) {
    case Capability::amx:
      return amx::int8_kernels;
    case Capability::avx512_bf16:
    case Capability::avx512_vnni:
      return avx512_vnni::int8_kernels;
    case Capability::avx512:
      return avx512::int8_kernels;
    case Capability::avx2:
      return avx2::int8_kernels;
    case Capability::generic:
      break;
  }
#endif
  return generic::int8_kernels;
}

template <>
const Kernels<float>& kernels<float>() {
  return float_tables().kernels;
}

template <>
const Kernels<double>& kernels<double>() {
  return generic::double_tables.kernels;
}

template <>
const RowKernels<float, float>& row_kernels<float, float>() {
  return row_tables().of_float;
}

template <>
const RowKernels<c10::BFloat16, float>& row_kernels<c10::BFloat16, float>() {
  return row_tables().of_bfloat16;
}

template <>
const RowKernels<double, double>& row_kernels<double, double>() {
  return generic::double_tables.rows;
}

} // namespace supernet::cpu
