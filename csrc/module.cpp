// Every schema of the project, and the Python module that says what was built.
// Kernels register themselves at the end of their files; ops/autograd.cpp wires gradients by the names given here,
// supernet/ops.py adds shape inference.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/kernels.h"
#include "cuda/build_info.h"

TORCH_LIBRARY(supernet, m) {
  m.def(
      "masked_conv2d(Tensor x, Tensor weight, Tensor? coefficients, int out_channels, int stride, "
      "int padding, int groups) -> Tensor");
  m.def(
      "masked_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? coefficients, int stride, "
      "int padding, int groups, bool[3] needed) -> (Tensor x, Tensor weight, Tensor coefficients)");

  m.def("depthwise_conv2d(Tensor x, Tensor weight, int stride) -> Tensor");
  m.def(
      "depthwise_conv2d_backward(Tensor grad, Tensor x, Tensor weight, int stride, bool[2] needed) "
      "-> (Tensor x, Tensor weight)");

  // Inside masked_conv2d.
  m.def("pointwise_conv2d(Tensor x, Tensor weight) -> Tensor");
  m.def("pointwise_conv2d_backward(Tensor grad, Tensor x, Tensor weight, bool[2] needed) -> (Tensor, Tensor)");

  m.def(
      "batch_norm_act_train(Tensor x, Tensor? gamma, Tensor? beta, float eps, str act) "
      "-> (Tensor y, Tensor mean, Tensor var)");
  m.def(
      "batch_norm_act_backward(Tensor grad, Tensor x, Tensor? gamma, Tensor? beta, Tensor mean, Tensor var, "
      "float eps, str act) -> (Tensor x, Tensor gamma, Tensor beta)");

  m.def("depth_mix(Tensor[] xs, Tensor p) -> Tensor");
  m.def("depth_mix_backward(Tensor grad, Tensor[] xs, Tensor p) -> (Tensor[] xs, Tensor p)");

  m.def(
      "dw_separable(Tensor x, Tensor dw_weight, Tensor dw_scale, Tensor dw_shift, Tensor pw_weight, "
      "Tensor pw_scale, Tensor pw_shift, int stride, str mid_act, str out_act) -> Tensor");
  m.def(
      "dw_separable_train(Tensor x, Tensor dw_weight, Tensor? dw_gamma, Tensor? dw_beta, float dw_eps, "
      "Tensor pw_weight, Tensor? pw_gamma, Tensor? pw_beta, float pw_eps, int stride, str mid_act, "
      "str out_act) -> (Tensor y, Tensor dw_out, Tensor pw_out, Tensor dw_mean, Tensor dw_var, "
      "Tensor pw_mean, Tensor pw_var)");
  m.def(
      "dw_separable_backward(Tensor grad, Tensor x, Tensor dw_out, Tensor pw_out, Tensor dw_weight, "
      "Tensor? dw_gamma, Tensor? dw_beta, Tensor dw_mean, Tensor dw_var, float dw_eps, Tensor pw_weight, "
      "Tensor? pw_gamma, Tensor? pw_beta, Tensor pw_mean, Tensor pw_var, float pw_eps, int stride, "
      "str mid_act, str out_act, bool x_needed) -> (Tensor x, Tensor dw_weight, Tensor dw_gamma, "
      "Tensor dw_beta, Tensor pw_weight, Tensor pw_gamma, Tensor pw_beta)");

  m.def(
      "inverted_bottleneck(Tensor x, Tensor expand_weight, Tensor expand_scale, Tensor expand_shift, "
      "Tensor dw_weight, Tensor dw_scale, Tensor dw_shift, Tensor pw_weight, Tensor pw_scale, "
      "Tensor pw_shift, bool residual, int stride, str act) -> Tensor");
  m.def(
      "inverted_bottleneck_train(Tensor x, Tensor expand_weight, Tensor? expand_gamma, Tensor? expand_beta, "
      "Tensor dw_weight, Tensor? dw_gamma, Tensor? dw_beta, Tensor pw_weight, Tensor? pw_gamma, "
      "Tensor? pw_beta, float eps, bool residual, int stride, str act) -> (Tensor y, Tensor expand_out, "
      "Tensor dw_out, Tensor pw_out, Tensor expand_mean, Tensor expand_var, Tensor dw_mean, Tensor dw_var, "
      "Tensor pw_mean, Tensor pw_var)");
  m.def(
      "inverted_bottleneck_backward(Tensor grad, Tensor x, Tensor expand_out, Tensor dw_out, Tensor pw_out, "
      "Tensor expand_weight, Tensor? expand_gamma, Tensor? expand_beta, Tensor expand_mean, "
      "Tensor expand_var, Tensor dw_weight, Tensor? dw_gamma, Tensor? dw_beta, Tensor dw_mean, "
      "Tensor dw_var, Tensor pw_weight, Tensor? pw_gamma, Tensor? pw_beta, Tensor pw_mean, Tensor pw_var, "
      "float eps, bool residual, int stride, str act, bool x_needed) -> (Tensor x, Tensor expand_weight, "
      "Tensor expand_gamma, Tensor expand_beta, Tensor dw_weight, Tensor dw_gamma, Tensor dw_beta, "
      "Tensor pw_weight, Tensor pw_gamma, Tensor pw_beta)");
}

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

} // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled operators; importing it registers torch.ops.supernet. Use supernet.ops.";
  m.def("build_info", &build_info, "What this extension was built with.");
  m.def("set_cpu_capability", &supernet::cpu::set_capability, "The CPU kernels' instruction set, for tests.");
}
