// The Python module. Operators are not in it: loading it registers them, each by its file in ops and by those of its
// forms.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include "cpu/kernels.h"
#include "cuda/build_info.h"

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
