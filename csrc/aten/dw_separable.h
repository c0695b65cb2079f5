// The forms of dw_separable for every device, for what a device's own kernels leave out.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>

namespace supernet::aten {

at::Tensor dw_separable(
    const at::Tensor& x,
    const at::Tensor& dw_weight,
    const at::Tensor& dw_scale,
    const at::Tensor& dw_shift,
    const at::Tensor& pw_weight,
    const at::Tensor& pw_scale,
    const at::Tensor& pw_shift,
    int64_t stride,
    std::string_view mid_act,
    std::string_view out_act);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> dw_separable_train(
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

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> dw_separable_backward(
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

} // namespace supernet::aten
