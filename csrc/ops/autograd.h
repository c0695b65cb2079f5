// Gradients, wired by the names in the schemas: in C++, since for a small layer Python's autograd functions cost
// more than the layer.
//
// The backward of `f` or `f_train` is the operator `f_backward`. Its arguments are `grad`, the gradient of the
// first output; arguments and outputs of the forward operator under the same name; and `needed` or `x_needed`,
// which of its results, or whether x's, are wanted. Each result is named after the argument that it is the
// gradient of. Outputs behind the first one have no gradient.
#pragma once

#include <torch/library.h>

#include <string>

namespace supernet {

// Gives the operator `name` its gradient, and its backward the refusal to be differentiated again. Schemas are read
// when the operator is first called, so the order in which files register theirs does not matter.
void differentiable(torch::Library& m, const std::string& name);

// Makes backward through the inference form `name` say to train with `name`_train.
void inference_only(torch::Library& m, const std::string& name);

} // namespace supernet
