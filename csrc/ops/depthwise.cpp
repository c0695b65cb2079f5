// Schemas and gradient of depthwise_conv2d.
#include <torch/library.h>

#include "ops/autograd.h"

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def("depthwise_conv2d(Tensor x, Tensor weight, int stride) -> Tensor");
  m.def(
      "depthwise_conv2d_backward(Tensor grad, Tensor x, Tensor weight, int stride, bool[2] needed) "
      "-> (Tensor x, Tensor weight)");
  differentiable(m, "depthwise_conv2d");
}

} // namespace supernet
