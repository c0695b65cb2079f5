// Steps of the form of masked_conv2d for every device, for forms of one device.
#pragma once

#include <array>
#include <tuple>

#include "ops/masked_conv.h"

namespace supernet::aten {

// The part of the weight that is used: a view.
at::Tensor active_weight(const at::Tensor& weight, const MaskedConvShape& s);

// The convolution of x by `w`, which has the active weight's shape, and the gradients of both.
at::Tensor active_convolution(
    const at::Tensor& x, const at::Tensor& w, const MaskedConvShape& s, int64_t stride, int64_t padding);
std::tuple<at::Tensor, at::Tensor> active_convolution_backward(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& w,
    const MaskedConvShape& s,
    int64_t stride,
    int64_t padding,
    std::array<bool, 2> needed);

} // namespace supernet::aten
