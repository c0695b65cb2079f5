// How a form of the int8 blocks becomes the two operators.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/int8_blocks.h"

namespace supernet {

// run(const Int8Block&, Tensor& y) computes y of a batch that is not empty.
template <auto run>
class Int8Operators {
 public:
  static void implement(torch::Library& m) {
    m.impl("dw_separable_int8", &Checked<&check_dw_separable_int8>::call);
    m.impl("inverted_bottleneck_int8", &Checked<&check_inverted_bottleneck_int8>::call);
  }

 private:
  template <auto check, class Check = decltype(check)>
  struct Checked;
  template <auto check, class... Args>
  struct Checked<check, Int8Block (*)(Args...)> {
    static at::Tensor call(Args... args) {
      const auto block = check(args...);
      const at::AutoDispatchBelowAutograd guard;
      const auto& s = block.shape;
      auto y = at::empty(
          {block.x.size(0), s.out_channels, s.height, s.width},
          block.x.options().memory_format(at::MemoryFormat::ChannelsLast));
      if (y.numel() > 0) {
        run(block, y);
      }
      return y;
    }
  };
};

} // namespace supernet
