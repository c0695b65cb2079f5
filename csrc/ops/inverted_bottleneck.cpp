// Schemas of inverted_bottleneck and its training form, and the gradient of that.
#include <torch/library.h>

#include "ops/autograd.h"

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def(
      "inverted_bottleneck(Tensor x, Tensor expand_weight, Tensor expand_scale, Tensor expand_shift, "
      "Tensor dw_weight, Tensor dw_scale, Tensor dw_shift, Tensor pw_weight, Tensor pw_scale, "
      "Tensor pw_shift, bool residual, int stride, str act) -> Tensor");
  m.def(
      "inverted_bottleneck_train(Tensor x, Tensor expand_weight, Tensor? expand_gamma, Tensor? expand_beta, "
      "Tensor dw_weight, Tensor? dw_gamma, Tensor? dw_beta, Tensor pw_weight, Tensor? pw_gamma, "
      "Tensor? pw_beta, float eps, bool residual, int stride, str act) -> (Tensor y, Tensor expand_out, "
      "Tensor dw_out, Tensor pw_out, Tensor expand_mean, Tensor expand_var, Tensor dw_mean, Tensor dw_var, "
      "Tensor pw_mean, Tensor pw_var)");
  m.def(
      "inverted_bottleneck_backward(Tensor grad, Tensor x, Tensor expand_out, Tensor dw_out, Tensor pw_out, "
      "Tensor expand_weight, Tensor? expand_gamma, Tensor? expand_beta, Tensor expand_mean, "
      "Tensor expand_var, Tensor dw_weight, Tensor? dw_gamma, Tensor? dw_beta, Tensor dw_mean, "
      "Tensor dw_var, Tensor pw_weight, Tensor? pw_gamma, Tensor? pw_beta, Tensor pw_mean, Tensor pw_var, "
      "float eps, bool residual, int stride, str act, bool x_needed) -> (Tensor x, Tensor expand_weight, "
      "Tensor expand_gamma, Tensor expand_beta, Tensor dw_weight, Tensor dw_gamma, Tensor dw_beta, "
      "Tensor pw_weight, Tensor pw_gamma, Tensor pw_beta)");
  inference_only(m, "inverted_bottleneck");
  differentiable(m, "inverted_bottleneck_train");
}

} // namespace supernet
