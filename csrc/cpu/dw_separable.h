// What the training and the inference form of dw_separable share on the CPU.
#pragma once

#include "cpu/depthwise_batch.h"
#include "ops/dw_separable.h"

namespace supernet::cpu {

inline DepthwiseShape geometry(
    const at::Tensor& x, const at::Tensor& weight, const DwSeparableShape& s, int64_t stride) {
  const auto k = weight.size(2);
  return {s.channels, x.size(2), x.size(3), s.height, s.width, k, stride, k / 2, false};
}

inline at::Tensor empty_image(const at::Tensor& x, int64_t channels, const DwSeparableShape& s) {
  return at::empty(
      {x.size(0), channels, s.height, s.width}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

// The pointwise weight [out, in], which may be part of a larger one, packed for products with pixels [n, in], each
// output scaled; or for products with their gradients [n, out].
template <typename S>
at::Tensor pack_pointwise(const at::Tensor& weight, const S* scale, bool for_gradient) {
  const auto& k = kernels<S>();
  const auto out = weight.size(0), in = weight.size(1);
  const auto depth = for_gradient ? out : in, columns = for_gradient ? in : out;
  const auto of_out = weight.stride(0), of_in = weight.stride(1);
  auto packed = values<S>({depth * round_up(columns, k.vector)});
  k.pack_matrix(
      weight.const_data_ptr<S>(), for_gradient ? of_out : of_in, for_gradient ? of_in : of_out, depth, columns,
      scale, packed.template data_ptr<S>());
  return packed;
}

} // namespace supernet::cpu
