// The CPU kernels for any processor, and for float64.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/int8_kernels.h"
#include "cpu/kernels.h"

#define SUPERNET_ISA generic
#include "cpu/isa/vec_generic.h"
// behind the vectors
#include "cpu/kernels/int8.h"
#include "cpu/kernels/table.h"

namespace supernet::cpu::generic {

const FloatTables float_tables = {
    make_kernels<Vec<float>>(),
    make_float_row_tables<Vec<float>>(),
};
const DoubleTables double_tables = {make_kernels<Vec<double>>(), make_row_kernels<Vec<double>, double>()};
const Int8Kernels int8_kernels = make_int8_kernels<QuadVec>();

} // namespace supernet::cpu::generic
