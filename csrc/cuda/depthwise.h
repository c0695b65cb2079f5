// What the other operators use of depthwise_conv2d on CUDA.
#pragma once

#include <ATen/Dispatch.h>

#include <array>
#include <tuple>

#include "cuda/batch_norm_act.h"
#include "cuda/depthwise_launches.cuh"
#include "ops/depthwise.h"

// The types that the kernels are compiled for, as scalar_t.
#define SUPERNET_DISPATCH_DEPTHWISE(type, name, ...) \
  AT_DISPATCH_SWITCH(                                \
      type, name, AT_DISPATCH_CASE(at::kFloat, __VA_ARGS__) AT_DISPATCH_CASE_REDUCED_FLOATING_TYPES(__VA_ARGS__))

namespace supernet {

// Checks x and weight, and that a launch holds them.
cuda::DepthwiseSize depthwise_size_cuda(
    const char* op, const at::Tensor& x, const at::Tensor& weight, int64_t stride);

// Whether there are own kernels: float32, float16 and bfloat16, kernel 3, 5 or 7, stride 1 or 2.
bool has_depthwise_cuda(const at::Tensor& x, const at::Tensor& weight, int64_t stride);

at::Tensor depthwise_conv2d_cuda(const at::Tensor& x, const at::Tensor& weight, int64_t stride);

std::tuple<at::Tensor, at::Tensor> depthwise_conv2d_backward_cuda(
    const at::Tensor& grad,
    const at::Tensor& x,
    const at::Tensor& weight,
    int64_t stride,
    std::array<bool, 2> needed);

// Where has_depthwise_cuda, for x that is read through `norm`, or as it is where that is null: the output with its mean
// and biased variance per channel.
std::tuple<at::Tensor, at::Tensor, at::Tensor> depthwise_statistics_cuda(
    const at::Tensor& x, const CudaNorm* norm, const at::Tensor& weight, int64_t stride);

// Where has_depthwise_cuda, for x that is read through `norm`: gradients of x, gamma, beta and weight.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> depthwise_norm_backward_cuda(
    const at::Tensor& grad, const at::Tensor& x, const CudaNorm& norm, const at::Tensor& weight, int64_t stride);

} // namespace supernet
