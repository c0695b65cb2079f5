// Schemas and gradient of masked_conv2d.
#include <torch/library.h>

#include "ops/autograd.h"

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def(
      "masked_conv2d(Tensor x, Tensor weight, Tensor? coefficients, int? out_channels, int stride, "
      "int padding, int groups) -> Tensor");
  m.def(
      "masked_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? coefficients, int stride, "
      "int padding, int groups, bool[3] needed) -> (Tensor x, Tensor weight, Tensor coefficients)");
  differentiable(m, "masked_conv2d");
}

} // namespace supernet
