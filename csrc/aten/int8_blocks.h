// The form of the int8 blocks for every device, for what a device's own kernels leave out.
#pragma once

#include "ops/int8_blocks.h"

namespace supernet::aten {

void int8_block(const Int8Block& call, at::Tensor& y);

} // namespace supernet::aten
