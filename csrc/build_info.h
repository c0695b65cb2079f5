// What the CUDA compiler says of itself; defined in build_info_cuda.cu, declared for library.cpp.
#pragma once

#include <string>
#include <vector>

namespace supernet {

std::string cuda_version(); // e.g. "13.0"
std::vector<std::string> cuda_archs(); // e.g. {"8.0", "9.0"}

} // namespace supernet
