// Fills one instruction set's tables. Included last by its translation unit.
#pragma once

#include "cpu/kernels/depthwise_any.h"
#include "cpu/kernels/depthwise_grad.h"
#include "cpu/kernels/matmul.h"
#include "cpu/kernels/mix.h"
#include "cpu/kernels/rows.h"

namespace supernet::cpu::SUPERNET_ISA {

template <class V>
constexpr Kernels<typename V::Scalar> make_kernels() {
  return {
      V::kSize,
      &pack_depthwise<V>,
      &depthwise<V>,
      &depthwise_weight_grad<V>,
      &pack_matrix<V>,
      &matmul<V>,
      &matmul_transposed<V>,
  };
}

template <class V, typename T>
constexpr RowKernels<T, typename V::Scalar> make_row_kernels() {
  using S = typename V::Scalar;
  return {
      &convert<V, T, S>,
      &convert<V, S, T>,
      &moments<V, T>,
      &normalise<V, T>,
      &normalise_store<V, T>,
      &reduce_grad_of<V, T>,
      &mask_and_reduce_grad<V, T>,
      &input_grad<V, T, T, S>,
      &input_grad<V, T, T, T>,
      &input_grad<V, S, T, S>,
      &mix<V, T>,
      &mix_grad<V, T>,
  };
}

template <class V>
constexpr FloatRowTables make_float_row_tables() {
  return {make_row_kernels<V, float>(), make_row_kernels<V, c10::BFloat16>()};
}

} // namespace supernet::cpu::SUPERNET_ISA
