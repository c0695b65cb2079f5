// Schemas of pointwise_conv2d, which works inside masked_conv2d: the gradient is wired there.
#include <torch/library.h>

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def("pointwise_conv2d(Tensor x, Tensor weight) -> Tensor");
  m.def("pointwise_conv2d_backward(Tensor grad, Tensor x, Tensor weight, bool[2] needed) -> (Tensor, Tensor)");
}

} // namespace supernet
