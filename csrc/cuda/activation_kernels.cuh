// The activations and their gradients in device code. Constants multiply: a division takes some ten instructions and a
// call for what those do not cover.
#pragma once

#include "cuda/common.cuh"
#include "ops/activation.h"

namespace supernet::cuda {

template <typename Acc>
__device__ __forceinline__ Acc activate(Activation act, Acc z) {
  switch (act) {
    case Activation::relu:
      return z < Acc(0) ? Acc(0) : z; // NaN stays NaN
    case Activation::relu6:
      return z < Acc(0) ? Acc(0) : z > Acc(6) ? Acc(6) : z;
    case Activation::hard_swish:
      return z < Acc(-3) ? Acc(0) : z > Acc(3) ? z : z * (z + Acc(3)) * (Acc(1) / Acc(6));
    default:
      return z;
  }
}

// The gradient before the activation, from the one behind it and the activation's input z.
template <typename Acc>
__device__ __forceinline__ Acc activate_backward(Activation act, Acc grad, Acc z) {
  switch (act) {
    case Activation::relu:
      return z <= Acc(0) ? Acc(0) : grad;
    case Activation::relu6:
      return z <= Acc(0) || z >= Acc(6) ? Acc(0) : grad;
    case Activation::hard_swish:
      return z < Acc(-3) ? Acc(0) : z > Acc(3) ? grad : grad * (z * (Acc(1) / Acc(3)) + Acc(0.5));
    default:
      return grad;
  }
}

} // namespace supernet::cuda
