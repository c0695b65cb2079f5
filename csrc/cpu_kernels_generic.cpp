// The CPU kernels for any processor, and for float64.
#include <algorithm>
#include <cstdint>

#include "cpu/kernels.h"

#define SUPERNET_ISA generic
#include "cpu/vec_generic.h"
// behind the vectors
#include "cpu/table.h"

namespace supernet::cpu::generic {

const FloatTables float_tables = {
    make_kernels<Vec<float>>(),
    make_row_kernels<Vec<float>, float>(),
    make_row_kernels<Vec<float>, c10::BFloat16>(),
};
const DoubleTables double_tables = {make_kernels<Vec<double>>(), make_row_kernels<Vec<double>, double>()};

} // namespace supernet::cpu::generic
