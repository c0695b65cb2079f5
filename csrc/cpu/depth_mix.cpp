// depth_mix on the CPU: one pass over every tensor, forward and backward.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu/depthwise_batch.h"
#include "ops/depth_mix.h"

namespace supernet {
namespace {

using at::Tensor;

// Elements worked on at a time: the gradient's stay in the L1 cache while every tensor passes by.
constexpr int64_t kBlock = 2048;
// The gradient of p is summed in this many chunks at most, however many threads there are, so that it does
// not depend on their number.
constexpr int64_t kMaxChunks = 64;

int64_t chunk_size(int64_t n) {
  const auto blocks = (n + kBlock - 1) / kBlock;
  return std::max<int64_t>(1, (blocks + kMaxChunks - 1) / kMaxChunks) * kBlock;
}

template <typename T>
std::vector<const T*> pointers(const std::vector<Tensor>& tensors) {
  std::vector<const T*> out;
  for (const auto& t : tensors) {
    out.push_back(t.const_data_ptr<T>());
  }
  return out;
}

Tensor depth_mix_cpu(at::TensorList xs, const Tensor& p) {
  check_depth_mix(xs, p);
  const at::AutoDispatchBelowAutograd guard;
  const auto inputs = in_one_layout(xs);
  const auto weights = p.to(accumulate_type(xs[0])).contiguous();
  auto y = at::empty_like(inputs[0]);
  const auto n = y.numel();

  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y.scalar_type(), "depth_mix", [&] {
    using S = cpu::Compute<scalar_t>;
    const auto x = pointers<scalar_t>(inputs);
    const auto* w = weights.const_data_ptr<S>();
    auto* out = y.data_ptr<scalar_t>();
    at::parallel_for(0, n, 32 * kBlock, [&](int64_t from, int64_t to) {
      auto parts = x;
      for (auto& part : parts) {
        part += from;
      }
      cpu::row_kernels<scalar_t, S>().mix(
          parts.data(), w, static_cast<int64_t>(parts.size()), to - from, out + from);
    });
  });
  return y;
}

std::tuple<std::vector<Tensor>, Tensor> depth_mix_backward_cpu(
    const Tensor& grad, at::TensorList xs, const Tensor& p) {
  check_depth_mix_backward(grad, xs, p);
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
    using S = cpu::Compute<scalar_t>;
    const auto x = pointers<scalar_t>(inputs);
    const auto* w = weights.const_data_ptr<S>();
    const auto* gs = g.const_data_ptr<scalar_t>();
    std::vector<scalar_t*> grad_x;
    for (const auto& t : grad_xs) {
      grad_x.push_back(t.data_ptr<scalar_t>());
    }
    auto* sums = partial.data_ptr<double>();
    at::parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
      for (auto c = from; c < to; ++c) {
        const auto end = std::min(n, (c + 1) * chunk);
        for (auto begin = c * chunk; begin < end; begin += kBlock) {
          const auto length = std::min(kBlock, end - begin);
          for (int64_t d = 0; d < depth; ++d) {
            sums[c * depth + d] += cpu::row_kernels<scalar_t, S>().mix_grad(
                gs + begin, x[d] + begin, w[d], length, grad_x[d] + begin);
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
