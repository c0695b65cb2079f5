// Device code of the sums that blocks leave behind: a first kernel writes one part per block, the kernels here add
// the parts in a fixed order, so results are the same from run to run.
#pragma once

#include "cuda/common.cuh"

namespace supernet::cuda {

// The statistics of some values: their number, their mean and the sum of their squared distances from it.
template <typename Acc>
struct Moments {
  Acc count, mean, squares;
};

// Chan et al. (1983): exact for any two sets, however far their means lie from 0.
template <typename Acc>
__device__ __forceinline__ Moments<Acc> merged(const Moments<Acc>& a, const Moments<Acc>& b) {
  const Acc count = a.count + b.count;
  const Acc share = count == Acc(0) ? Acc(0) : b.count / count;
  const Acc distance = b.mean - a.mean;
  return {count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
}

// Sums of one thread, around its first value: a plain sum of squares would cancel.
template <typename Acc>
struct ShiftedSums {
  Acc shift = 0, sum = 0, squares = 0;

  __device__ __forceinline__ void add(Acc value, bool first) {
    shift = first ? value : shift;
    const Acc distance = value - shift;
    sum += distance;
    squares += distance * distance;
  }
  __device__ __forceinline__ Moments<Acc> moments(Acc count) const {
    if (count == Acc(0)) {
      return {0, 0, 0};
    }
    const Acc mean = sum / count;
    return {count, shift + mean, squares - sum * mean};
  }
};

constexpr int kReduceThreads = 256;
constexpr int kReduceColumns = 8; // 32 bytes of floats: what memory delivers at once
constexpr int kReduceGroups = kReduceThreads / kReduceColumns;

// Adds `mine`, a value of each thread, over the groups of a column; the result is in group 0.
template <typename Value, typename Add>
__device__ Value reduce_groups(Value mine, Value* scratch, Add add) {
  const int group = threadIdx.x / kReduceColumns;
  scratch[threadIdx.x] = mine;
  for (int half = kReduceGroups / 2; half > 0; half /= 2) {
    __syncthreads();
    if (group < half) {
      scratch[threadIdx.x] = add(scratch[threadIdx.x], scratch[threadIdx.x + half * kReduceColumns]);
    }
  }
  return scratch[threadIdx.x];
}

// out[i] = Σ_part partial[part * columns + i]
template <typename Acc, typename Out>
__global__ void __launch_bounds__(kReduceThreads)
    sum_parts_kernel(const Acc* partial, int64_t parts, int64_t columns, Out* out) {
  SUPERNET_SHARED(Acc, scratch, kReduceThreads);
  const int64_t column = int64_t(blockIdx.x) * kReduceColumns + threadIdx.x % kReduceColumns;
  Acc sum = 0;
  if (column < columns) {
    for (int64_t part = threadIdx.x / kReduceColumns; part < parts; part += kReduceGroups) {
      sum += cuda::load(partial + part * columns + column);
    }
  }
  sum = reduce_groups(sum, scratch, [](Acc a, Acc b) { return a + b; });
  if (threadIdx.x < kReduceColumns && column < columns) {
    store(out + column, static_cast<Out>(sum));
  }
}

template <typename Acc, typename Out>
void sum_parts(const Acc* partial, int64_t parts, int64_t columns, Out* out, Stream stream) {
  const auto blocks = (columns + kReduceColumns - 1) / kReduceColumns;
  launch(
      &sum_parts_kernel<Acc, Out>, static_cast<unsigned>(blocks), kReduceThreads, 0, stream, partial, parts, columns,
      out);
}

// Mean and biased variance of each channel from the moments of the parts, partial[part][count, mean, squares][channel].
template <typename Acc>
__global__ void __launch_bounds__(kReduceThreads)
    merge_moments_kernel(const Acc* partial, int64_t parts, int64_t channels, Acc* mean, Acc* var) {
  SUPERNET_SHARED(Moments<Acc>, scratch, kReduceThreads);
  const int64_t channel = int64_t(blockIdx.x) * kReduceColumns + threadIdx.x % kReduceColumns;
  Moments<Acc> all = {0, 0, 0};
  if (channel < channels) {
    for (int64_t part = threadIdx.x / kReduceColumns; part < parts; part += kReduceGroups) {
      const Acc* const p = partial + part * 3 * channels + channel;
      all = merged(all, {cuda::load(p), cuda::load(p + channels), cuda::load(p + 2 * channels)});
    }
  }
  all = reduce_groups(all, scratch, [](const Moments<Acc>& a, const Moments<Acc>& b) { return merged(a, b); });
  if (threadIdx.x < kReduceColumns && channel < channels) {
    store(mean + channel, all.mean);
    store(var + channel, all.squares / all.count);
  }
}

template <typename Acc>
void merge_moments(const Acc* partial, int64_t parts, int64_t channels, Acc* mean, Acc* var, Stream stream) {
  const auto blocks = (channels + kReduceColumns - 1) / kReduceColumns;
  launch(
      &merge_moments_kernel<Acc>, static_cast<unsigned>(blocks), kReduceThreads, 0, stream, partial, parts, channels,
      mean, var);
}

} // namespace supernet::cuda
