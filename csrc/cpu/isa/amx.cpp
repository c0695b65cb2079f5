// Inference in bfloat16 and on 8-bit values for AVX-512 with bfloat16 conversions, VNNI and AMX; all else is AVX-512's.
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
#include "cpu/int8_kernels.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,amx-tile,amx-bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,amx-tile,amx-bf16,avx2,fma")
#endif

#define SUPERNET_ISA amx
#define SUPERNET_NARROWS_BFLOAT16
#define SUPERNET_MULTIPLIES_BYTES
#include "cpu/isa/vec_avx512.h"
// behind the vectors
#include "cpu/kernels/blocks_float.h"
#include "cpu/kernels/int8_amx.h"
#include "cpu/kernels/look_up.h"

namespace supernet::cpu::amx {

const BlockKernels block_kernels = {
    32, 40 * 1024, &pad_rows, &pack_pairs, &taps_bytes, &pack_taps, &rows_read, &block_bytes,
    &widen_block, &expand_blocks, &depthwise_block<FloatVec>, &project_pixels,
};
const Int8Kernels int8_kernels = {
    64, &pad_pixels_to_tiles, &pack_quads<QuadVec>, &multiply_tiles_of_bytes, &quads_of_row<QuadVec>,
    &depthwise_quads<QuadVec>, &look_up_fastest,
};

} // namespace supernet::cpu::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
