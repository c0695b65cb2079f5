// The CPU kernels for AVX-512 (F, BW, DQ, VL).
//
// Every header of others comes before the target options: what it defines may be merged with copies from
// other files, which must run on any processor. All that follows lives in a namespace of this instruction
// set.
#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics begin from "undefined" vectors, which it then warns of.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/int8_kernels.h"
#include "cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define SUPERNET_ISA avx512
#include "cpu/isa/vec_avx512.h"
// behind the vectors
#include "cpu/kernels/int8.h"
#include "cpu/kernels/table.h"

namespace supernet::cpu::avx512 {

const FloatTables float_tables = {
    make_kernels<FloatVec>(),
    make_float_row_tables<FloatVec>(),
};
const Int8Kernels int8_kernels = make_int8_kernels<QuadVec>();

} // namespace supernet::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
