// Convolutions whose batch norms are folded in, packed for the CPU kernels: scales go into the weights,
// shifts are what the sums begin with.
#pragma once

#include "cpu/depthwise_batch.h"
#include "cpu/dw_separable.h"
#include "cpu/kernels.h"

namespace supernet::cpu {

// A convolution without bias and the affine map behind it.
struct FoldedConv {
  const at::Tensor &weight, &scale, &shift;
};

// A vector per channel as S, padded with zeros to whole vectors.
template <typename S>
at::Tensor padded(const at::Tensor& v) {
  auto out = at::zeros({round_up(v.size(0), kernels<S>().vector)}, values<S>({0}).options());
  out.narrow(0, 0, v.size(0)).copy_(v);
  return out;
}

// Depthwise weights, scaled, as Kernels::pack_depthwise packs them.
template <typename S>
at::Tensor pack_taps(const FoldedConv& conv, const DepthwiseShape& shape) {
  const auto type = c10::CppTypeToScalarType<S>::value;
  const auto weight = conv.weight.to(type).contiguous(), scale = conv.scale.to(type).contiguous();
  auto taps = values<S>({round_up(shape.channels, kernels<S>().vector) * shape.kernel * shape.kernel});
  kernels<S>().pack_depthwise(
      weight.template const_data_ptr<S>(), scale.template const_data_ptr<S>(), shape.channels, shape.kernel, false,
      taps.template data_ptr<S>());
  return taps;
}

template <typename T>
class FoldedDepthwise {
 public:
  using S = Compute<T>;

  FoldedDepthwise(const FoldedConv& conv, const DepthwiseShape& shape, Activation act)
      : shape_(shape), act_(act), bias_(padded<S>(conv.shift)), taps_(pack_taps<S>(conv, shape)) {}

  // Output rows [begin, end) of an image into a buffer that begins with row `begin`.
  void operator()(Band<const S> in, int64_t readable_rows, int64_t begin, int64_t end, S* out) const {
    DepthwiseEpilogue<S> epilogue;
    epilogue.bias = bias_.template const_data_ptr<S>();
    epilogue.act = act_;
    epilogue.readable_rows = readable_rows;
    kernels<S>().depthwise(
        shape_, in, taps_.template const_data_ptr<S>(), {out, begin}, begin, end, epilogue);
  }

 private:
  DepthwiseShape shape_;
  Activation act_;
  at::Tensor bias_, taps_;
};

template <typename T>
class FoldedPointwise {
 public:
  using S = Compute<T>;

  FoldedPointwise(const FoldedConv& conv, Activation act)
      : in_(conv.weight.size(1)), out_(conv.weight.size(0)), act_(act), bias_(padded<S>(conv.shift)) {
    const auto type = c10::CppTypeToScalarType<S>::value;
    const auto weight = conv.weight.to(type), scale = conv.scale.to(type).contiguous();
    matrix_ = pack_pointwise<S>(weight, scale.template const_data_ptr<S>(), false);
  }

  // act(x w + shift) + residual of so many pixels; residual may be null.
  void operator()(const S* x, int64_t pixels, const S* residual, S* y) const {
    kernels<S>().matmul(
        x, pixels, in_, matrix_.template const_data_ptr<S>(), out_, bias_.template const_data_ptr<S>(), act_,
        residual, y);
  }
  // The same, rounded into memory.
  void store(const S* x, int64_t pixels, const S* residual, T* y) const {
    if constexpr (std::is_same_v<T, S>) {
      (*this)(x, pixels, residual, y);
    } else {
      auto* product = scratch<S>(Use::output, pixels * out_);
      (*this)(x, pixels, residual, product);
      row_kernels<T, S>().store(product, pixels * out_, y);
    }
  }

 private:
  int64_t in_, out_;
  Activation act_;
  at::Tensor bias_, matrix_;
};

} // namespace supernet::cpu
