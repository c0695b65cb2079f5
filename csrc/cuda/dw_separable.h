// What inverted_bottleneck uses of dw_separable on CUDA: all behind the depthwise convolution in training, forward and
// backward.
#pragma once

#include <ATen/Context.h>

#include <limits>

#include "cuda/batch_norm_act.h"
#include "ops/dw_separable.h"

namespace supernet {

// The output and, before its batch norm, that of the pointwise convolution; dw_out is the depthwise convolution's, and
// `dw` has its statistics. Those of `pw` are set.
std::tuple<at::Tensor, at::Tensor> pointwise_train_cuda(
    const at::Tensor& dw_out, const CudaNorm& dw, const at::Tensor& pw_weight, CudaNorm& pw);

// Gradients of dw_out, of gamma and beta of its batch norm, of pw_weight, and of gamma and beta behind it.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> pointwise_backward_cuda(
    const at::Tensor& grad,
    const at::Tensor& dw_out,
    const CudaNorm& dw,
    const at::Tensor& pw_out,
    const at::Tensor& pw_weight,
    const CudaNorm& pw);

// A pixel has at most this many blocks of the inference kernels (separable_kernels.cuh).
inline void check_fused_launch(const char* op, const DwSeparableShape& s) {
  TORCH_CHECK(
      s.count <= std::numeric_limits<int32_t>::max() / (s.out_channels / 512 + 5), op, ": ", s.count, " pixels of ",
      s.out_channels, " channels are more than one launch holds");
}

// Scales and shifts as the inference kernels read them.
inline at::Tensor contiguous_floats(const at::Tensor& t) {
  return t.to(at::kFloat).contiguous();
}

// Whether PyTorch lets products of floats go through TF32, as its own product of matrices asks; it is off by default.
inline bool allows_tf32() {
  return at::globalContext().allowTF32CuBLAS() && !at::NoTF32Guard::should_disable_tf32();
}

} // namespace supernet
