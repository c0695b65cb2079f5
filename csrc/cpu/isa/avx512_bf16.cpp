// For AVX-512 with bfloat16 products and no AMX: inference in bfloat16 and passes over rows; all else is
// AVX-512's.
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

#include "cpu/block_kernels.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

#define SUPERNET_ISA avx512_bf16
#define SUPERNET_NARROWS_BFLOAT16
#include "cpu/isa/vec_avx512.h"
// behind the vectors
#include "cpu/kernels/blocks_pairs.h"
#include "cpu/kernels/table.h"

namespace supernet::cpu::avx512_bf16 {

const FloatRowTables row_tables = make_float_row_tables<FloatVec>();
const BlockKernels block_kernels = {
    2, 14 * 1024, &pad_rows, &pack_pairs, &taps_bytes, &pack_taps, &rows_read, &block_bytes,
    &widen_block, &expand_blocks, &depthwise_block<PairVec>, &project_pixels,
};

} // namespace supernet::cpu::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
