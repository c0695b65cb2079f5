#include "cuda/int8_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

// Without an expansion `inputs` is 0 and its pointers are null; flip is 0x80808080 for int8, and zero points are those
// of the unsigned values.
void block(
    const uint8_t* x, const uint8_t* expand_weight, const int* expand_bias, const float* expand_scale,
    const uint8_t* expand_table, const uint8_t* dw_weight, const int* dw_bias, const float* dw_scale,
    const uint8_t* dw_table, const uint8_t* pw_weight, const int* pw_bias, const float* pw_scale, const uint8_t* pw_table,
    uint8_t* y, int x_zero, int expand_zero, int dw_in_zero, int dw_zero, int pw_zero, bool residual, float x_factor,
    float pw_factor, int y_zero, int64_t flip, int inputs, int outputs, int64_t batch, int channels, int height,
    int width, int out_height, int out_width, int kernel, int stride, Stream stream) {
  auto plan =
      int8_plan({batch, channels, height, width, out_height, out_width, kernel, stride}, inputs, outputs);
  if (!plan) { // y stays as it is
    return;
  }
  const auto words = [](const uint8_t* p) { return reinterpret_cast<const uint32_t*>(p); };
  const auto turned = static_cast<uint32_t>(flip);
  plan->flip = turned;
  plan->fill = static_cast<uint32_t>(dw_in_zero) * 0x01010101u;
  const uint32_t last = pw_table ? 0 : turned & 0xff;
  int8_block(
      *plan,
      {x,
       {words(expand_weight), expand_bias, expand_scale, {expand_zero, expand_table, 0}},
       {words(dw_weight), dw_bias, dw_scale, {dw_zero, dw_table, 0}},
       {words(pw_weight), pw_bias, pw_scale, {pw_zero, pw_table, last}},
       residual, x_zero, x_factor, pw_factor, {y_zero, nullptr, turned & 0xff}, y},
      stream);
}

SIMT_EXPORT(int8_block, block)
