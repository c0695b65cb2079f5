// A kernel that is right, and the same with one fault each: tests/test_simt.py shows that the runner sees them.
#include "cuda/copies.cuh"
#include "cuda/depthwise_rows.cuh"
#include "cuda/int8_arithmetic.cuh"
#include "cuda/mma.cuh"
#include "export.h"

namespace {

using namespace supernet::cuda;

constexpr int kThreads = 64;

enum class Fault {
  none,
  missing_barrier,
  write_after_read,
  exit_before_barrier,
  two_barriers,
  exit_before_shuffle,
  partial_mask,
  read_behind,
  read_in_front,
  write_behind,
  write_input,
  raw_pointer,
  null_pointer,
  misaligned,
  shared_just_behind,
  shared_behind,
  local_behind,
  unwritten,
  uninitialised_shared,
  spinning,
};

// y is x with each block of kThreads reversed, and 0 added in roundabout ways.
template <Fault fault>
__global__ void reverse_kernel(const float* x, float* y, int64_t n) {
  SUPERNET_SHARED(float, tile, kThreads);
  SUPERNET_SHARED(float, three, 3); // its end is not that of a page
  const int t = threadIdx.x;
  const int64_t i = int64_t(blockIdx.x) * kThreads + t;
  if (fault != Fault::uninitialised_shared || t != 5) {
    int64_t from = i;
    if (fault == Fault::read_behind && i == n - 1) {
      from = n;
    } else if (fault == Fault::read_in_front && i == 0) {
      from = -1;
    }
    tile[t] = fault == Fault::raw_pointer ? x[from] : supernet::cuda::load(x + from);
  }
  if (fault == Fault::exit_before_barrier && t == 63) {
    return;
  }
  if (fault == Fault::two_barriers && t < 32) {
    __syncthreads();
  } else if (fault != Fault::missing_barrier) {
    __syncthreads();
  }
  float value = tile[kThreads - 1 - t];
  if (fault != Fault::write_after_read) {
    __syncthreads();
  }
  tile[t] = 0;
  __syncthreads();
  if (fault == Fault::exit_before_shuffle && t == 40) {
    return;
  }
  const unsigned mask = fault == Fault::partial_mask ? 0xffffu : kFullMask;
  value += __shfl_xor_sync(mask, tile[t], 1);
  volatile float local[4] = {};
  const volatile int behind = 4; // not for the compiler to see
  if (fault == Fault::local_behind && t == 3) {
    local[behind] = 1;
  }
  if (fault == Fault::shared_just_behind && t == 3) {
    three[behind - 1] = 1;
  } else if (fault == Fault::shared_behind && t == 3) {
    tile[kThreads + behind] = 1;
  } else if (fault == Fault::write_input && t == 3) {
    store(const_cast<float*>(x), 1.f);
  } else if (fault == Fault::null_pointer && t == 3) {
    value += supernet::cuda::load(static_cast<const float*>(nullptr));
  } else if (fault == Fault::misaligned && t == 3) {
    value += load_vec(x + 1).v[0];
  }
  while (fault == Fault::spinning && *static_cast<volatile float*>(tile) == 0) {
  }
  if (fault == Fault::unwritten && i == 70) {
    return;
  }
  store(y + (fault == Fault::write_behind && i == n - 1 ? n : i), value + local[0]);
}

template <Fault fault>
void reverse(const float* x, float* y, int64_t n, Stream stream) {
  launch(reverse_kernel<fault>, static_cast<unsigned>(n / kThreads), kThreads, 0, stream, x, y, n);
}

// Every intrinsic on t: rows of `out` of 64 integers.
__global__ void intrinsics_kernel(int* out) {
  SUPERNET_DYNAMIC_SHARED(int, row);
  const int t = threadIdx.x;
  row[t] = t;
  __syncwarp();
  const int values[] = {
      __shfl_sync(kFullMask, t, 3),
      __shfl_sync(kFullMask, t, 9, 8),
      __shfl_up_sync(kFullMask, t, 2),
      __shfl_up_sync(kFullMask, t, 2, 16),
      __shfl_down_sync(kFullMask, t, 5),
      __shfl_down_sync(kFullMask, t, 5, 8),
      __shfl_xor_sync(kFullMask, t, 17),
      static_cast<int>(__shfl_down_sync(kFullMask, t * 0.5, 1) * 2),
      static_cast<int>(__ballot_sync(kFullMask, t % 32 < 3)),
      __any_sync(kFullMask, t == 40),
      __all_sync(kFullMask, t < 32),
      __syncthreads_count(t % 3 == 0),
      __syncthreads_or(t == 63),
      __syncthreads_and(t != 63),
      static_cast<int>(warp_sum(float(row[t ^ 1]))),
      static_cast<int>(block_sum(double(t), reinterpret_cast<double*>(row + 64))),
  };
  for (unsigned k = 0; k < sizeof(values) / sizeof(int); ++k) {
    store(out + 64 * k + t, values[k]);
  }
}

void intrinsics(int* out, Stream stream) {
  launch(intrinsics_kernel, 1, 64, 64 * sizeof(int) + 2 * sizeof(double), stream, out);
}

// c = a · bᵀ + a · bᵀ of 16×16 tiles.
template <typename T, typename P>
__global__ void tile_kernel(const T* a, const T* b, float* c, bool forget_barrier) {
  using Tile = WarpTile<T, P>;
  constexpr int kStride = 16 + Vec<T>::size;
  SUPERNET_SHARED(T, shared_a, 16 * kStride);
  SUPERNET_SHARED(T, shared_b, 16 * kStride);
  for (int i = threadIdx.x; i < 256; i += 32) {
    shared_a[i / 16 * kStride + i % 16] = supernet::cuda::load(a + i);
    shared_b[Tile::place(i / 16) * kStride + i % 16] = supernet::cuda::load(b + i);
  }
  if (!forget_barrier) {
    __syncwarp();
  }
  typename Tile::A tile_a;
  typename Tile::B tile_b;
  typename Tile::C tile_c = {};
  Tile::load_a(tile_a, shared_a, kStride);
  Tile::load_b(tile_b, shared_b, kStride);
  Tile::mma(tile_c, tile_a, tile_b);
  Tile::mma(tile_c, tile_a, tile_b);
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < kQuad; ++j) {
      store(c + (Tile::first_row() + 8 * i) * 16 + Tile::first_column() + j, tile_c.v[i][j]);
    }
  }
}

template <typename T, typename P = T>
void tile(const T* a, const T* b, float* c, bool forget_barrier, Stream stream) {
  launch(tile_kernel<T, P>, 1, 32, 0, stream, a, b, c, forget_barrier);
}

enum class CopyFault { none, no_wait, no_barrier, late_wait, overwritten, misaligned };

// y is x with each block of 256 reversed: a thread copies four floats, and two stages take turns.
template <CopyFault fault>
__global__ void copies_kernel(const float* x, float* y, int blocks, int n) {
  SUPERNET_SHARED(float, stages, 2 * 256);
  const int first = threadIdx.x * 4;
  const auto stage = [&](int b) { return stages + (fault == CopyFault::overwritten ? 0 : b % 2 * 256); };
  const auto fetch = [&](int b) {
    const int shift = fault == CopyFault::misaligned && b == 1;
    copy_async(stage(b) + first, x + b * 256 + first + shift, max(0, min(16, (n - b * 256 - first) * 4)));
  };
  fetch(0);
  for (int b = 0; b < blocks; ++b) {
    if (fault != CopyFault::no_wait && fault != CopyFault::late_wait) {
      wait_for_copies();
    }
    if (fault != CopyFault::no_barrier) {
      __syncthreads();
    }
    if (b + 1 < blocks) {
      fetch(b + 1);
    }
    const Quad last = load_quad(stage(b) + 252 - first);
    for (int i = 0; i < kQuad; ++i) {
      store(y + b * 256 + first + i, last.v[3 - i]);
    }
    if (fault == CopyFault::late_wait) {
      wait_for_copies();
    }
  }
}

template <CopyFault fault>
void copies(const float* x, float* y, int blocks, int n, Stream stream) {
  launch(copies_kernel<fault>, 1, 64, 0, stream, x, y, blocks, n);
}

// Two warps; the second's rows are what ldmatrix takes from where `row` says. Each lane stores 16 bytes, a row of a
// matrix, as lane + shift does in place of it: with a shift of 0 the row that the lane points to itself.
__global__ void matrices_kernel(const int* x, int* y, int shift, bool forget_barrier) {
  SUPERNET_SHARED(int, rows, 64 * 4);
  const int t = threadIdx.x, warp = t / 32 * 32, place = warp + (t + shift) % 32;
  for (int i = 0; i < 4; ++i) {
    rows[place * 4 + i] = supernet::cuda::load(x + place * 4 + i);
  }
  if (!forget_barrier) {
    __syncwarp();
  }
  uint32_t matrices[4];
  load_matrices(matrices, rows + t * 4);
  for (int i = 0; i < 4; ++i) {
    store(y + t * 4 + i, static_cast<int>(matrices[i]));
  }
}

void matrices(const int* x, int* y, int shift, bool forget_barrier, Stream stream) {
  launch(matrices_kernel, 1, 64, 0, stream, x, y, shift, forget_barrier);
}

// c [16][8] = a [16][32] · b [8][32]ᵀ by a warp, rows as words; and of each lane's first words the product of four bytes.
__global__ void bytes_kernel(const int* a, const int* b, int* c, int* products) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  const auto word = [](const int* p) { return static_cast<uint32_t>(supernet::cuda::load(p)); };
  const int *const upper = a + group * 8 + place, *const lower = upper + 8 * 8, *const column = b + group * 8 + place;
  const uint32_t of_a[] = {word(upper), word(lower), word(upper + 4), word(lower + 4)};
  const uint32_t of_b[] = {word(column), word(column + 4)};
  int sums[4] = {};
  multiply_tile(sums, of_a, of_b);
  for (int i = 0; i < 4; ++i) {
    store(c + (group + i / 2 * 8) * 8 + place * 2 + i % 2, sums[i]);
  }
  store(products + threadIdx.x, dot(of_a[0], of_b[0], 1000));
}

void bytes(const int* a, const int* b, int* c, int* products, Stream stream) {
  launch(bytes_kernel, 1, 32, 0, stream, a, b, c, products);
}

// What warps ask of memory: each thread reads x[stride * t] (16 bytes of it if wide), writes y[t], four times over.
__global__ void traffic_kernel(const float* x, float* y, int stride, bool wide) {
  const int t = threadIdx.x;
  for (int i = 0; i < 4; ++i) {
    store(y + t, wide ? load_vec(x + stride * t).v[0] : supernet::cuda::load(x + stride * t));
  }
}

void traffic(const float* x, float* y, int stride, bool wide, Stream stream) {
  launch(traffic_kernel, 2, 64, 0, stream, x, y, stride, wide);
}

// A warp stores kWords words of each lane to shared memory, `stride` words apart.
template <int kWords>
__global__ void banks_kernel(float* out, int stride) {
  struct alignas(4 * kWords) Value {
    float v[kWords];
  };
  SUPERNET_SHARED(float, words, 36 * 32);
  store_shared(reinterpret_cast<Value*>(words + threadIdx.x * stride), Value{});
  store(out + threadIdx.x, 0.f);
}

template <int kWords>
void banks(float* out, int stride, Stream stream) {
  launch(banks_kernel<kWords>, 1, 32, 0, stream, out, stride);
}

// The taps of kChannels channels as kernels keep them in shared memory, from [channel][tap].
template <int kChannels, int kTaps>
__global__ void taps_kernel(const float* weight, float* out) {
  SUPERNET_SHARED(float, taps, kTaps * kTapRow<kChannels>);
  fill_taps<256, kChannels, kTaps>(
      taps, [&](int channel, int tap) { return supernet::cuda::load(weight + channel * kTaps + tap); });
  __syncthreads();
  for (int i = threadIdx.x; i < kTaps * kChannels; i += 256) {
    store(out + i, taps[i / kChannels * kTapRow<kChannels> + i % kChannels]);
  }
}

template <int kChannels, int kTaps>
void taps(const float* weight, float* out, Stream stream) {
  launch(taps_kernel<kChannels, kTaps>, 1, 256, 0, stream, weight, out);
}

__global__ void barriers_kernel(int times) {
  for (int i = 0; i < times; ++i) {
    __syncthreads();
  }
}

void launch_of(int grid_x, int grid_y, int block, int dynamic_bytes, int barriers, Stream stream) {
  launch(
      barriers_kernel, dim3(grid_x, grid_y), block, static_cast<size_t>(dynamic_bytes), stream, barriers);
}

} // namespace

#define FAULT(name) SIMT_EXPORT(reverse_##name, reverse<Fault::name>)
FAULT(none)
FAULT(missing_barrier)
FAULT(write_after_read)
FAULT(exit_before_barrier)
FAULT(two_barriers)
FAULT(exit_before_shuffle)
FAULT(partial_mask)
FAULT(read_behind)
FAULT(read_in_front)
FAULT(write_behind)
FAULT(write_input)
FAULT(raw_pointer)
FAULT(null_pointer)
FAULT(misaligned)
FAULT(shared_just_behind)
FAULT(shared_behind)
FAULT(local_behind)
FAULT(unwritten)
FAULT(uninitialised_shared)
FAULT(spinning)
SIMT_EXPORT(intrinsics, intrinsics)
SIMT_EXPORT(tile_float16, tile<c10::Half>)
SIMT_EXPORT(tile_bfloat16, tile<c10::BFloat16>)
SIMT_EXPORT(tile_float32, tile<float>)
SIMT_EXPORT(tile_tf32, tile<float, Tf32>)
SIMT_EXPORT(copies_none, copies<CopyFault::none>)
SIMT_EXPORT(copies_no_wait, copies<CopyFault::no_wait>)
SIMT_EXPORT(copies_no_barrier, copies<CopyFault::no_barrier>)
SIMT_EXPORT(copies_late_wait, copies<CopyFault::late_wait>)
SIMT_EXPORT(copies_overwritten, copies<CopyFault::overwritten>)
SIMT_EXPORT(copies_misaligned, copies<CopyFault::misaligned>)
SIMT_EXPORT(matrices, matrices)
SIMT_EXPORT(bytes, bytes)
SIMT_EXPORT(traffic, traffic)
SIMT_EXPORT(banks_4, banks<1>)
SIMT_EXPORT(banks_8, banks<2>)
SIMT_EXPORT(banks_16, banks<4>)
SIMT_EXPORT(taps_32_50, taps<32, 50>)
SIMT_EXPORT(taps_32_9, taps<32, 9>)
SIMT_EXPORT(taps_16_26, taps<16, 26>)
SIMT_EXPORT(launch_of, launch_of)
