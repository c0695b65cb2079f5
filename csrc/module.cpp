// The Python module. Operators are not in it: loading it registers them, each by its file in ops and by those of its
// forms. Their checks are, for the form that only infers shapes, which is Python's.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include "cpu/kernels.h"
#include "cuda/build_info.h"
#include "ops/batch_norm_act.h"
#include "ops/depth_mix.h"
#include "ops/depthwise.h"
#include "ops/dw_separable.h"
#include "ops/int8_blocks.h"
#include "ops/masked_conv.h"

namespace supernet {
namespace {

namespace py = pybind11;

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#else
  info["compiler"] = "unknown";
#endif
#ifdef SUPERNET_WITH_CUDA
  info["cuda"] = supernet::cuda_version();
  info["cuda_archs"] = supernet::cuda_archs();
#else
  info["cuda"] = py::none();
  info["cuda_archs"] = py::list();
#endif
  info["cpu_capability"] = supernet::cpu::capability_name();
  return info;
}

// An argument of an operator as Python brings it and as its check takes it.
template <class T>
struct FromPython {
  using Type = T;
  static T of(T value) {
    return value;
  }
};
template <>
struct FromPython<const at::Tensor&> { // None is an undefined tensor, as for the dispatcher
  using Type = const std::optional<at::Tensor>&;
  static at::Tensor of(Type value) {
    return value.value_or(at::Tensor());
  }
};
template <>
struct FromPython<at::TensorList> {
  using Type = const std::vector<at::Tensor>&;
  static at::TensorList of(Type value) {
    return value;
  }
};
template <>
struct FromPython<c10::ArrayRef<bool>> {
  using Type = const std::vector<bool>&;
  static c10::SmallVector<bool, 4> of(Type value) {
    return {value.begin(), value.end()};
  }
};

template <class R, class... Args>
void define(py::module_& m, const char* name, R (*check)(Args...)) {
  m.def(name, torch::wrap_pybind_function([check](typename FromPython<Args>::Type... args) {
    check(FromPython<Args>::of(args)...);
  }));
}

// Each takes what the operator of its name takes, and raises what that would.
void define_checks(py::module_ m) {
  define(m, "batch_norm_act_train", check_batch_norm_act_train);
  define(m, "batch_norm_act_backward", check_batch_norm_act_backward);
  define(m, "depth_mix", check_depth_mix);
  define(m, "depth_mix_backward", check_depth_mix_backward);
  define(m, "depthwise_conv2d", check_depthwise_conv2d);
  define(m, "depthwise_conv2d_backward", check_depthwise_conv2d_backward);
  define(m, "dw_separable", check_dw_separable);
  define(m, "dw_separable_train", check_dw_separable_train);
  define(m, "dw_separable_backward", check_dw_separable_backward);
  define(m, "dw_separable_int8", check_dw_separable_int8);
  define(m, "inverted_bottleneck", check_inverted_bottleneck);
  define(m, "inverted_bottleneck_train", check_inverted_bottleneck_train);
  define(m, "inverted_bottleneck_backward", check_inverted_bottleneck_backward);
  define(m, "inverted_bottleneck_int8", check_inverted_bottleneck_int8);
  define(m, "masked_conv2d", check_masked_conv2d);
  define(m, "masked_conv2d_backward", check_masked_conv2d_backward);
}

} // namespace
} // namespace supernet

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled operators; importing it registers torch.ops.supernet. Use supernet.ops.";
  m.def("build_info", &supernet::build_info, "What this extension was built with.");
  m.def("set_cpu_capability", &supernet::cpu::set_capability, "The CPU kernels' instruction set, for tests.");
  supernet::define_checks(m.def_submodule("checks", "What operators refuse, by their names."));
}
