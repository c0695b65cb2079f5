// The activations and their gradients in device code. Constants multiply: a division takes some ten instructions and a
// call for what those do not cover.
#pragma once

#include "cuda/common.cuh"
#include "ops/activation.h"

namespace supernet::cuda {

// x / (1 + e^-z); of floats by the instructions for 2^x and 1 / x, a few roundings off.
template <typename Acc>
__device__ __forceinline__ Acc times_sigmoid(Acc x, Acc z) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<Acc, float>) {
    return __fdividef(x, 1.f + __expf(-z));
  }
#endif
  return x / (Acc(1) + exp(-z));
}

template <typename Acc>
__device__ __forceinline__ Acc activate(Activation act, Acc z) {
  switch (act) {
    case Activation::relu:
      return z < Acc(0) ? Acc(0) : z; // NaN stays NaN
    case Activation::relu6:
      return z < Acc(0) ? Acc(0) : z > Acc(6) ? Acc(6) : z;
    case Activation::hard_swish:
      return z < Acc(-3) ? Acc(0) : z > Acc(3) ? z : z * (z + Acc(3)) * (Acc(1) / Acc(6));
    case Activation::swish:
      return times_sigmoid(z, z);
    default:
      return z;
  }
}

// z becomes what is activated. One choice for all: with one for each, the compiler would write what follows five times.
template <typename Acc, int kCount>
__device__ __forceinline__ void activate_all(Activation act, Acc (&z)[kCount]) {
  const auto all = [&](Activation chosen) {
#pragma unroll
    for (Acc& value : z) {
      value = activate(chosen, value);
    }
  };
  switch (act) {
    case Activation::relu:
      return all(Activation::relu);
    case Activation::relu6:
      return all(Activation::relu6);
    case Activation::hard_swish:
      return all(Activation::hard_swish);
    case Activation::swish:
      return all(Activation::swish);
    default:
      return;
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
    case Activation::swish: {
      const Acc s = times_sigmoid(Acc(1), z);
      return grad * s * (Acc(1) + z * (Acc(1) - s));
    }
    default:
      return grad;
  }
}

} // namespace supernet::cuda
