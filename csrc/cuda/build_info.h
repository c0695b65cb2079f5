// What the CUDA compiler says of itself.
#pragma once

#include <string>
#include <vector>

namespace supernet {

std::string cuda_version(); // e.g. "13.0"
std::vector<std::string> cuda_archs(); // e.g. {"8.0", "9.0"}

} // namespace supernet
