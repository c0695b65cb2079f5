// The int8 blocks on CUDA: one launch of int8_kernels.cuh, for kernels of 3, 5 and 7 and strides of 1 and 2.
#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "aten/int8_blocks.h"
#include "cuda/int8_kernels.cuh"
#include "ops/int8_operators.h"
#include "ops/layout.h"

namespace supernet {
namespace {

using at::Tensor;

int64_t up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// With zeros up to sizes along the last axes, the last one first.
Tensor padded(const Tensor& t, at::IntArrayRef sizes) {
  std::vector<int64_t> behind;
  for (size_t i = 0; i < sizes.size(); ++i) {
    behind.insert(behind.end(), {0, sizes[i] - t.size(t.dim() - 1 - static_cast<int64_t>(i))});
  }
  return at::constant_pad_nd(t, behind).contiguous();
}

// A convolution as the kernel takes it: weights of rows of `row` values, outputs padded to a multiple of 4, zero points
// of unsigned values, in the bias the input's.
struct Packed {
  Tensor weight, bias, scale, table;
  cuda::Int8Rounding to;

  Packed(const Int8Block& call, const Int8Conv& conv, bool depthwise, bool last) {
    const int64_t offset = call.is_signed() ? 128 : 0, outputs = up(conv.weight.size(0), 4);
    const auto& w = conv.weight;
    weight = depthwise ? padded(w.select(1, 0), {up(w.size(3), 4), w.size(2), outputs})
                       : padded(w.flatten(1), {up(w.size(1), 32), outputs});
    bias = padded((conv.bias - w.sum({1, 2, 3}, false, at::kInt) * (conv.in_zero + offset)).to(at::kInt), {outputs});
    scale = padded(conv.scale, {outputs});
    to = {static_cast<int>(conv.zero + offset), nullptr, last && !conv.table ? static_cast<uint32_t>(offset) : 0};
    if (conv.table) {
      table = conv.table->contiguous().view(at::kByte);
      table = last ? table : table.bitwise_xor(offset);
      to.table = table.const_data_ptr<uint8_t>();
    }
  }
  cuda::Int8Weights pointers() const {
    return {
        static_cast<const uint32_t*>(weight.const_data_ptr()), bias.const_data_ptr<int>(), scale.const_data_ptr<float>(),
        to};
  }
};

void run_cuda(const Int8Block& call, Tensor& y) {
  const c10::cuda::CUDAGuard device(call.x.device());
  const auto& s = call.shape;
  const auto kernel = call.dw.weight.size(2);
  const int64_t offset = call.is_signed() ? 128 : 0, inputs = up(call.x.size(1), 4), outputs = up(s.out_channels, 4);
  const bool fits = std::max(s.count, call.x.size(0) * call.x.size(2) * call.x.size(3)) <=
      std::numeric_limits<int32_t>::max();
  std::optional<cuda::Int8Plan> plan;
  if (fits && kernel > 1 && call.stride <= 2) {
    const auto size = [](int64_t n) { return static_cast<int>(n); };
    plan = cuda::int8_plan(
        {call.x.size(0), size(up(s.channels, 4)), size(call.x.size(2)), size(call.x.size(3)), size(s.height),
         size(s.width), size(kernel), size(call.stride)},
        call.expand ? size(inputs) : 0, size(outputs));
  }
  if (!plan) {
    aten::int8_block(call, y);
    return;
  }
  plan->flip = static_cast<uint32_t>(offset) * 0x01010101u;
  plan->fill = static_cast<uint32_t>(call.dw.in_zero + offset) * 0x01010101u;

  // Channels are words: where they are not, they are made so, and y is made of the values that were asked for.
  const auto x = inputs == call.x.size(1) ? channels_last(call.x)
                                          : channels_last(at::constant_pad_nd(call.x, {0, 0, 0, 0, 0, inputs - call.x.size(1)}));
  auto whole = outputs == s.out_channels
      ? y
      : at::empty({y.size(0), outputs, s.height, s.width}, y.options().memory_format(at::MemoryFormat::ChannelsLast));
  std::optional<Packed> expand;
  if (call.expand) {
    expand.emplace(call, *call.expand, false, false);
  }
  const Packed dw(call, call.dw, true, false), pw(call, call.pw, false, true);
  cuda::Int8Pointers in = {};
  in.x = static_cast<const uint8_t*>(x.const_data_ptr());
  in.y = static_cast<uint8_t*>(whole.mutable_data_ptr());
  in.expand = expand ? expand->pointers() : cuda::Int8Weights{};
  in.dw = dw.pointers();
  in.pw = pw.pointers();
  if (call.residual) {
    const auto& r = *call.residual;
    in.residual = true;
    in.x_zero = static_cast<int>(call.expand->in_zero + offset);
    in.x_factor = r.x_factor;
    in.pw_factor = r.pw_factor;
    in.sum = {static_cast<int>(r.zero + offset), nullptr, static_cast<uint32_t>(offset)};
  }
  cuda::int8_block(*plan, in, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (!whole.is_same(y)) {
    y.copy_(whole.narrow(1, 0, s.out_channels));
  }
}

} // namespace

TORCH_LIBRARY_IMPL(supernet, CUDA, m) {
  Int8Operators<&run_cuda>::implement(m);
}

} // namespace supernet
