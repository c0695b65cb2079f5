// Schemas of the int8 blocks. Integers have no gradient.
#include <torch/library.h>

namespace supernet {

TORCH_LIBRARY_FRAGMENT(supernet, m) {
  m.def(
      "dw_separable_int8(Tensor x, Tensor dw_weight, Tensor dw_bias, Tensor dw_scale, int dw_in_zero, int dw_zero, "
      "Tensor? dw_table, Tensor pw_weight, Tensor pw_bias, Tensor pw_scale, int pw_in_zero, int pw_zero, "
      "Tensor? pw_table, int stride) -> Tensor");
  m.def(
      "inverted_bottleneck_int8(Tensor x, Tensor expand_weight, Tensor expand_bias, Tensor expand_scale, "
      "int expand_in_zero, int expand_zero, Tensor? expand_table, Tensor dw_weight, Tensor dw_bias, Tensor dw_scale, "
      "int dw_in_zero, int dw_zero, Tensor? dw_table, Tensor pw_weight, Tensor pw_bias, Tensor pw_scale, "
      "int pw_in_zero, int pw_zero, bool residual, float x_factor, float pw_factor, int y_zero, int stride) -> Tensor");
}

} // namespace supernet
