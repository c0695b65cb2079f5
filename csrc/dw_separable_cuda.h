// What inverted_bottleneck uses of dw_separable on CUDA: all behind its expansion in training, forward and backward.
#pragma once

#include <limits>

#include "dw_separable.h"

namespace supernet {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> dw_separable_train_cuda(
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    double dw_eps,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
dw_separable_backward_cuda(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& dw_out,
    const at::Tensor& pw_out,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& dw_mean,
    const at::Tensor& dw_var,
    double dw_eps,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    const at::Tensor& pw_mean,
    const at::Tensor& pw_var,
    double pw_eps,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act,
    bool x_needed);

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

} // namespace supernet
