// What the other operators use of batch_norm_act on CUDA: its steps, on tensors.
#pragma once

#include <optional>
#include <tuple>

#include "cuda/norm_act.cuh"
#include "ops/batch_norm_act.h"

namespace supernet {

// A batch norm with its activation; gamma, beta, mean and var in the type that the kernels compute in. Images here are
// channels_last.
struct CudaNorm {
  std::optional<at::Tensor> gamma, beta;
  double eps;
  Activation act;
  at::Tensor mean, var;

  // mean and var where they are known; else they are to be set.
  CudaNorm(
      const at::Tensor& x,
      const std::optional<at::Tensor>& gamma,
      const std::optional<at::Tensor>& beta,
      double eps,
      Activation act,
      const at::Tensor& mean = {},
      const at::Tensor& var = {});

  template <typename Acc>
  cuda::NormAct<Acc> arrays() const {
    const auto pointer = [](const std::optional<at::Tensor>& t) {
      return t.has_value() ? t->const_data_ptr<Acc>() : nullptr;
    };
    return {pointer(mean), pointer(var), pointer(gamma), pointer(beta), static_cast<Acc>(eps), act};
  }

  // Sets mean and var to those of x.
  void take_statistics(const at::Tensor& x);

  at::Tensor apply(const at::Tensor& x) const;

  // Gradients of x, gamma and beta from that behind the activation; or, with its sums [parts][2][channels] as
  // cuda::depthwise_input_gradient leaves them, from that before it.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
      const at::Tensor& grad, const at::Tensor& x, const at::Tensor& sums = {}) const;
};

} // namespace supernet
