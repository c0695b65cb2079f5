// The form of depthwise_conv2d for every device, for what a device's own kernels leave out.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

namespace supernet::aten {

at::Tensor depthwise_conv2d(const at::Tensor& x, const at::Tensor& weight, int64_t stride);
std::tuple<at::Tensor, at::Tensor> depthwise_conv2d_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& weight,
    int64_t stride,
    std::array<bool, 2> needed);

} // namespace supernet::aten
