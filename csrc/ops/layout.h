// Memory layouts: small helpers that copy only where they must.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

namespace supernet {

// Whether both lay their elements out in the same order; strides of axes of length 1 say nothing.
inline bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) {
      return false;
    }
  }
  return true;
}

// t, or a copy of it, laid out as empty_like(like) is: the layout a gradient should have. That of a part of a larger
// tensor is copied to its place anyway.
inline at::Tensor in_layout_of(const at::Tensor& like, const at::Tensor& t) {
  if (!like.is_non_overlapping_and_dense()) {
    return t;
  }
  auto out = at::empty_like(like, t.options());
  return same_layout(out, t) ? t : out.copy_(t);
}

inline at::Tensor channels_last(const at::Tensor& t) {
  return t.contiguous(at::MemoryFormat::ChannelsLast);
}

} // namespace supernet
