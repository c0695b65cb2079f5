// Schemas and gradient of depth_mix.
#include <torch/library.h>

#include "ops/autograd.h"

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def("depth_mix(Tensor[] xs, Tensor p) -> Tensor");
  m.def("depth_mix_backward(Tensor grad, Tensor[] xs, Tensor p) -> (Tensor[] xs, Tensor p)");
  differentiable(m, "depth_mix");
}

} // namespace supernet
