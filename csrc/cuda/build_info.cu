#include "cuda/build_info.h"

namespace supernet {

std::string cuda_version() {
  return std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__);
}

std::vector<std::string> cuda_archs() {
  std::vector<std::string> archs;
  for (const int arch : {__CUDA_ARCH_LIST__}) { // e.g. 800,900
    archs.push_back(std::to_string(arch / 100) + "." + std::to_string(arch % 100 / 10));
  }
  return archs;
}

} // namespace supernet
