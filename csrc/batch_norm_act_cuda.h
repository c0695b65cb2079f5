// What the other operators use of batch_norm_act on CUDA: its steps, on tensors.
#pragma once

#include <optional>
#include <tuple>

#include "batch_norm_act.h"

namespace supernet {

// A batch norm with its activation; gamma, beta, mean and var in the type that the kernels compute in.
struct CudaNorm {
  std::optional<at::Tensor> gamma, beta;
  double eps;
  Activation act;
  at::Tensor mean, var;

  CudaNorm(
      const at::Tensor& x,
      const std::optional<at::Tensor>& gamma,
      const std::optional<at::Tensor>& beta,
      double eps,
      Activation act);

  // Sets mean and var to those of x. Images here are channels_last.
  void take_statistics(const at::Tensor& x);

  at::Tensor apply(const at::Tensor& x) const;

  // Gradients of x, gamma and beta.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& x) const;
};

} // namespace supernet
