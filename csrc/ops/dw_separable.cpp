// Schemas of dw_separable and its training form, and the gradient of that.
#include <torch/library.h>

#include "ops/autograd.h"

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def(
      "dw_separable(Tensor x, Tensor dw_weight, Tensor dw_scale, Tensor dw_shift, Tensor pw_weight, "
      "Tensor pw_scale, Tensor pw_shift, int stride, str mid_act, str out_act) -> Tensor");
  m.def(
      "dw_separable_train(Tensor x, Tensor dw_weight, Tensor? dw_gamma, Tensor? dw_beta, float dw_eps, "
      "Tensor pw_weight, Tensor? pw_gamma, Tensor? pw_beta, float pw_eps, int stride, str mid_act, "
      "str out_act) -> (Tensor y, Tensor dw_out, Tensor pw_out, Tensor dw_mean, Tensor dw_var, "
      "Tensor pw_mean, Tensor pw_var)");
  m.def(
      "dw_separable_backward(Tensor grad, Tensor x, Tensor dw_out, Tensor pw_out, Tensor dw_weight, "
      "Tensor? dw_gamma, Tensor? dw_beta, Tensor dw_mean, Tensor dw_var, float dw_eps, Tensor pw_weight, "
      "Tensor? pw_gamma, Tensor? pw_beta, Tensor pw_mean, Tensor pw_var, float pw_eps, int stride, "
      "str mid_act, str out_act, bool x_needed) -> (Tensor x, Tensor dw_weight, Tensor dw_gamma, "
      "Tensor dw_beta, Tensor pw_weight, Tensor pw_gamma, Tensor pw_beta)");
  inference_only(m, "dw_separable");
  differentiable(m, "dw_separable_train");
}

} // namespace supernet
