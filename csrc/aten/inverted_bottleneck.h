// The forms of inverted_bottleneck for every device, for what a device's own kernels leave out.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>

namespace supernet::aten {

using InvertedBottleneckTensors = std::tuple<
    at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
    at::Tensor>;

at::Tensor inverted_bottleneck(
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const at::Tensor& expand_scale,
    const at::Tensor& expand_shift,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_scale,
    const at::Tensor& dw_shift,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_scale,
    const at::Tensor& pw_shift,
    bool residual,
    int64_t stride,
    std::string_view act);

InvertedBottleneckTensors inverted_bottleneck_train(
    const at::Tensor& x,
    const at::Tensor& expand_weight,
    const std::optional<at::Tensor>& expand_gamma,
    const std::optional<at::Tensor>& expand_beta,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act);

InvertedBottleneckTensors inverted_bottleneck_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& expand_out,
    const at::Tensor& dw_out,
    const at::Tensor& pw_out,
    const at::Tensor& expand_weight,
    const std::optional<at::Tensor>& expand_gamma,
    const std::optional<at::Tensor>& expand_beta,
    const at::Tensor& expand_mean,
    const at::Tensor& expand_var,
    const at::Tensor& dw_weight,
    const std::optional<at::Tensor>& dw_gamma,
    const std::optional<at::Tensor>& dw_beta,
    const at::Tensor& dw_mean,
    const at::Tensor& dw_var,
    const at::Tensor& pw_weight,
    const std::optional<at::Tensor>& pw_gamma,
    const std::optional<at::Tensor>& pw_beta,
    const at::Tensor& pw_mean,
    const at::Tensor& pw_var,
    double eps,
    bool residual,
    int64_t stride,
    std::string_view act,
    bool x_needed);

} // namespace supernet::aten
