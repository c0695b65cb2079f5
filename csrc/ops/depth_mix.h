// Checks and preparation of depth_mix, shared by every device.
#pragma once

#include <ATen/ops/empty_like.h>

#include <vector>

#include "ops/checks.h"
#include "ops/layout.h"

namespace supernet {

// A stage has a handful of blocks; the CUDA kernels pass this many pointers by value.
constexpr int64_t kMaxDepth = 32;

inline void depth_mix_call(const char* op, at::TensorList xs, const at::Tensor& p) {
  const auto depth = static_cast<int64_t>(xs.size());
  TORCH_CHECK(
      depth >= 1 && depth <= kMaxDepth, op, ": xs should hold 1 to ", kMaxDepth, " tensors, got ", depth);
  const auto& first = xs[0];
  check_dtype(op, "xs[0]", first);
  for (int64_t d = 1; d < depth; ++d) {
    TORCH_CHECK(
        xs[d].sizes() == first.sizes(), op, ": xs[", d, "] has shape ", xs[d].sizes(), ", xs[0] has ",
        first.sizes());
    TORCH_CHECK(
        xs[d].scalar_type() == first.scalar_type(), op, ": xs[", d, "] is ", xs[d].scalar_type(),
        ", xs[0] is ", first.scalar_type());
    TORCH_CHECK(
        xs[d].device() == first.device(), op, ": xs[", d, "] is on ", xs[d].device(), ", xs[0] is on ",
        first.device());
    check_dense(op, "each of xs", xs[d]);
  }
  check_channels(op, "p", p, depth, first);
}

inline void check_depth_mix(at::TensorList xs, const at::Tensor& p) {
  depth_mix_call("depth_mix", xs, p);
}

inline void check_depth_mix_backward(const at::Tensor& grad, at::TensorList xs, const at::Tensor& p) {
  constexpr auto op = "depth_mix_backward";
  depth_mix_call(op, xs, p);
  check_like(op, "grad", grad, xs[0].sizes(), xs[0]);
}

// Tensors in one dense layout, that of the first: element i of each buffer is the same element.
inline std::vector<at::Tensor> in_one_layout(at::TensorList tensors) {
  const auto& first = tensors[0];
  const auto like = first.is_non_overlapping_and_dense() ? first : at::empty_like(first);
  std::vector<at::Tensor> out;
  out.reserve(tensors.size());
  for (const auto& t : tensors) {
    out.push_back(same_layout(t, like) ? t : at::empty_like(like).copy_(t));
  }
  return out;
}

} // namespace supernet
