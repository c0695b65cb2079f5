// Which instruction set the CPU kernels use.
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <string_view>

#include "cpu/kernels.h"

namespace supernet::cpu {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512"};

Capability of_processor() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Capability::avx512;
  }
  if (avx2) {
    return Capability::avx2;
  }
#endif
  return Capability::generic;
}

Capability parse(std::string_view name, const char* source) {
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  TORCH_CHECK(found != std::end(kNames), source, " should be generic, avx2 or avx512, got '", name, "'");
  const auto asked = static_cast<Capability>(found - std::begin(kNames));
  const auto best = of_processor();
  TORCH_CHECK(
      asked <= best, source, " is ", name, ", but this processor has ", kNames[static_cast<int>(best)],
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
#if defined(__x86_64__)
  switch (capability()) {
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
  return float_tables().rows;
}

template <>
const RowKernels<c10::BFloat16, float>& row_kernels<c10::BFloat16, float>() {
  return float_tables().bfloat16_rows;
}

template <>
const RowKernels<double, double>& row_kernels<double, double>() {
  return generic::double_tables.rows;
}

} // namespace supernet::cpu
