// Schemas and gradient of batch_norm_act_train.
#include <torch/library.h>

#include "ops/autograd.h"

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def(
      "batch_norm_act_train(Tensor x, Tensor? gamma, Tensor? beta, float eps, str act) "
      "-> (Tensor y, Tensor mean, Tensor var)");
  m.def(
      "batch_norm_act_backward(Tensor grad, Tensor x, Tensor? gamma, Tensor? beta, Tensor mean, Tensor var, "
      "float eps, str act) -> (Tensor x, Tensor gamma, Tensor beta)");
  differentiable(m, "batch_norm_act_train");
}

} // namespace supernet
