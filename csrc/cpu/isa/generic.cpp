// The CPU kernels for any processor, and for float64.
#include <algorithm>
#include <cstdint>

#include "cpu/kernels.h"

#define SUPERNET_ISA generic
#include "cpu/isa/vec_generic.h"
// behind the vectors
#include "cpu/kernels/table.h"

namespace supernet::cpu::generic {

const FloatTables float_tables = {
    make_kernels<Vec<float>>(),
    make_float_row_tables<Vec<float>>(),
};
const DoubleTables double_tables = {make_kernels<Vec<double>>(), make_row_kernels<Vec<double>, double>()};

} // namespace supernet::cpu::generic
