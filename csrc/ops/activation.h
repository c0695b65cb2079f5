// The activations the fused operators know, parsed from their names in this one place.
#pragma once

#include <c10/util/Exception.h>

#include <string_view>

namespace supernet {

enum class Activation { none, relu, relu6, hard_swish, swish };

inline Activation parse_activation(const char* op, const char* name, std::string_view value) {
  if (value == "none") {
    return Activation::none;
  }
  if (value == "relu") {
    return Activation::relu;
  }
  if (value == "relu6") {
    return Activation::relu6;
  }
  if (value == "hard_swish") {
    return Activation::hard_swish;
  }
  if (value == "swish") {
    return Activation::swish;
  }
  TORCH_CHECK(false, op, ": ", name, " should be relu, relu6, hard_swish, swish or none, got '", value, "'");
}

} // namespace supernet
