// depth_mix on the CPU: one pass over every tensor, forward and backward.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "depth_mix.h"

namespace supernet {
namespace {

using at::Tensor;

// Elements worked on at a time: their accumulators stay in the L1 cache.
constexpr int64_t kBlock = 1024;
// The gradient of p is summed in this many chunks at most, however many threads there are, so that it does
// not depend on their number.
constexpr int64_t kMaxChunks = 64;

int64_t chunk_size(int64_t n) {
  const auto blocks = (n + kBlock - 1) / kBlock;
  return std::max<int64_t>(1, (blocks + kMaxChunks - 1) / kMaxChunks) * kBlock;
}

template <typename T>
std::vector<T*> pointers(const std::vector<Tensor>& tensors) {
  std::vector<T*> out;
  for (const auto& t : tensors) {
    out.push_back(t.data_ptr<T>());
  }
  return out;
}

template <typename T, typename Acc>
void mix_block(const std::vector<T*>& xs, const Acc* p, T* y, int64_t begin, int64_t len) {
  Acc acc[kBlock] = {};
  for (size_t d = 0; d < xs.size(); ++d) {
    if (p[d] == 0) {
      continue; // not read
    }
    const T* x = xs[d] + begin;
    const Acc weight = p[d];
    for (int64_t i = 0; i < len; ++i) {
      acc[i] += weight * static_cast<Acc>(x[i]);
    }
  }
  for (int64_t i = 0; i < len; ++i) {
    y[begin + i] = static_cast<T>(acc[i]);
  }
}

// Writes p * grad into grad_x and returns <grad, x> over one block.
template <typename T, typename Acc>
Acc grad_block(const Acc* grad, const T* x, Acc p, T* grad_x, int64_t len) {
  Acc dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < len; ++i) {
    dot += grad[i] * static_cast<Acc>(x[i]);
  }
  // 0 * inf would be NaN: an entry that is off gets gradient 0 from any grad.
  if (p == 0) {
    std::fill_n(grad_x, len, static_cast<T>(0));
  } else {
    for (int64_t i = 0; i < len; ++i) {
      grad_x[i] = static_cast<T>(p * grad[i]);
    }
  }
  return dot;
}

Tensor depth_mix_cpu(at::TensorList xs, const Tensor& p) {
  check_depth_mix(xs, p);
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto weights = p.to(accumulate_type(xs[0])).contiguous();
  auto y = at::empty_like(inputs[0]);
  const auto n = y.numel();

  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y.scalar_type(), "depth_mix", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto x = pointers<scalar_t>(inputs);
    const auto* w = weights.const_data_ptr<acc_t>();
    auto* out = y.data_ptr<scalar_t>();
    const auto blocks = (n + kBlock - 1) / kBlock;
    at::parallel_for(0, blocks, 32, [&](int64_t from, int64_t to) {
      for (auto begin = from * kBlock; begin < std::min(n, to * kBlock); begin += kBlock) {
        mix_block<scalar_t, acc_t>(x, w, out, begin, std::min(kBlock, n - begin));
      }
    });
  });
  return y;
}

std::tuple<std::vector<Tensor>, Tensor> depth_mix_backward_cpu(
    const Tensor& grad, at::TensorList xs, const Tensor& p) {
  check_depth_mix(xs, p);
  check_grad("depth_mix_backward", grad, xs[0].sizes(), xs[0]);
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto g = same_layout(grad, inputs[0]) ? grad : at::empty_like(inputs[0]).copy_(grad);
  const auto type = accumulate_type(xs[0]);
  const auto weights = p.to(type).contiguous();
  const auto depth = static_cast<int64_t>(xs.size());
  const auto n = g.numel(), chunk = chunk_size(n), chunks = (n + chunk - 1) / chunk;
  std::vector<Tensor> grad_xs;
  for (const auto& x : inputs) {
    grad_xs.push_back(at::empty_like(x));
  }
  // Sums of blocks add up in double: a float sum of millions of products loses digits.
  auto partial = at::zeros({chunks, depth}, g.options().dtype(at::kDouble).memory_format({}));

  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, g.scalar_type(), "depth_mix_backward", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto x = pointers<scalar_t>(inputs);
    const auto grad_x = pointers<scalar_t>(grad_xs);
    const auto* w = weights.const_data_ptr<acc_t>();
    const auto* gs = g.const_data_ptr<scalar_t>();
    auto* sums = partial.data_ptr<double>();
    at::parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
      acc_t block[kBlock];
      for (auto c = from; c < to; ++c) {
        const auto end = std::min(n, (c + 1) * chunk);
        for (auto begin = c * chunk; begin < end; begin += kBlock) {
          const auto len = std::min(kBlock, end - begin);
          std::copy_n(gs + begin, len, block); // converted once, read `depth` times from L1
          for (int64_t d = 0; d < depth; ++d) {
            sums[c * depth + d] +=
                grad_block<scalar_t, acc_t>(block, x[d] + begin, w[d], grad_x[d] + begin, len);
          }
        }
      }
    });
  });
  return {grad_xs, partial.sum(0).to(p.scalar_type())};
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CPU, m) {
  m.impl("depth_mix", &depth_mix_cpu);
  m.impl("depth_mix_backward", &depth_mix_backward_cpu);
}

} // namespace supernet
