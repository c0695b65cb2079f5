// The kernels for any processor against plain loops, as a program of its own: `make test-aarch64` compiles it for ARM,
// where the compiler makes NEON of their vectors, and runs it by qemu. Exit code 1 where a value differs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu/int8_kernels.h"
#include "cpu/kernels.h"

using namespace supernet;
using namespace supernet::cpu;

namespace {

int compared = 0, wrong = 0;

void compare(const char* what, double got, double want, double tolerance) {
  ++compared;
  if (!(std::abs(got - want) <= tolerance * std::max(1.0, std::abs(want)))) {
    if (wrong++ < 20) {
      std::printf("%s: expected %.9g, got %.9g\n", what, want, got);
    }
  }
}

// Numbers from -1 to 1, always the same.
double next() {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(state >> 33) / (1u << 30) - 1;
}

template <typename T>
std::vector<T> drawn(int64_t n, double scale = 1) {
  std::vector<T> out(n);
  std::generate(out.begin(), out.end(), [&] { return static_cast<T>(scale * next()); });
  return out;
}

int64_t padded(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

template <typename S>
void test_depthwise(const Kernels<S>& kernels, double tolerance) {
  const int64_t height = 9, width = 11;
  for (int64_t channels : {1, 8, 19}) {
    for (int64_t k : {3, 5, 7}) {
      for (int64_t stride : {1, 2}) {
        const int64_t pad = k / 2, out_height = (height - 1) / stride + 1, out_width = (width - 1) / stride + 1;
        const auto x = drawn<S>(height * width * channels), weight = drawn<S>(channels * k * k);
        const int64_t lanes = padded(channels, kernels.vector);
        std::vector<S> packed(lanes * k * k), y(out_height * out_width * channels), bias = drawn<S>(lanes);
        kernels.pack_depthwise(weight.data(), nullptr, channels, k, false, packed.data());
        const DepthwiseShape shape{channels, height, width, out_height, out_width, k, stride, pad, false};
        DepthwiseEpilogue<S> epilogue;
        epilogue.bias = bias.data();
        epilogue.act = Activation::relu;
        kernels.depthwise(shape, {x.data(), 0}, packed.data(), {y.data(), 0}, 0, out_height, epilogue);
        for (int64_t i = 0; i < out_height; ++i) {
          for (int64_t j = 0; j < out_width; ++j) {
            for (int64_t c = 0; c < channels; ++c) {
              double sum = bias[c];
              for (int64_t a = 0; a < k; ++a) {
                for (int64_t b = 0; b < k; ++b) {
                  const int64_t row = i * stride + a - pad, column = j * stride + b - pad;
                  if (row >= 0 && row < height && column >= 0 && column < width) {
                    sum += double(x[(row * width + column) * channels + c]) * weight[(c * k + a) * k + b];
                  }
                }
              }
              compare("depthwise", y[(i * out_width + j) * channels + c], std::max(sum, 0.0), tolerance);
            }
          }
        }
      }
    }
  }
}

template <typename S>
void test_products(const Kernels<S>& kernels, double tolerance) {
  for (int64_t rows : {1, 7, 40}) {
    for (int64_t depth : {3, 32}) {
      for (int64_t columns : {1, 8, 21}) {
        const int64_t lanes = padded(columns, kernels.vector);
        const auto a = drawn<S>(rows * depth), b = drawn<S>(depth * columns), residual = drawn<S>(rows * columns);
        std::vector<S> packed(depth * lanes), c(rows * columns), bias = drawn<S>(lanes), scale(columns, S(1));
        kernels.pack_matrix(b.data(), columns, 1, depth, columns, scale.data(), packed.data());
        kernels.matmul(
            a.data(), rows, depth, packed.data(), columns, bias.data(), Activation::relu6, residual.data(), c.data());
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < columns; ++j) {
            double sum = bias[j];
            for (int64_t d = 0; d < depth; ++d) {
              sum += double(a[i * depth + d]) * b[d * columns + j];
            }
            const double want = std::clamp(sum, 0.0, 6.0) + residual[i * columns + j];
            compare("matmul", c[i * columns + j], want, tolerance);
          }
        }
      }
    }
  }
}

template <typename T, typename S>
void test_rows(const RowKernels<T, S>& kernels, int64_t vector, double tolerance) {
  const int64_t rows = 13;
  for (int64_t channels : {1, 8, 21}) {
    const int64_t lanes = padded(channels, vector);
    const auto x = drawn<T>(rows * channels), other = drawn<T>(rows * channels);
    std::vector<S> moments(kMoments * lanes);
    kernels.moments(x.data(), rows, channels, moments.data());
    for (int64_t c = 0; c < channels; ++c) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < rows; ++i) {
        mean += double(x[i * channels + c]) / rows;
      }
      for (int64_t i = 0; i < rows; ++i) {
        variance += std::pow(double(x[i * channels + c]) - mean, 2) / rows;
      }
      const double shift = moments[c], first = moments[lanes + c] / rows, second = moments[2 * lanes + c] / rows;
      compare("mean", shift + first, mean, tolerance);
      compare("variance", second - first * first, variance, tolerance);
    }
    const T* xs[] = {x.data(), other.data()};
    const S p[] = {S(0.25), S(0.5)};
    std::vector<T> y(rows * channels);
    kernels.mix(xs, p, 2, rows * channels, y.data());
    for (size_t i = 0; i < y.size(); ++i) {
      compare("mix", double(y[i]), static_cast<double>(T(S(0.25) * S(x[i]) + S(0.5) * S(other[i]))), tolerance);
    }
  }
}

void test_products_of_bytes(const Int8Kernels& kernels) {
  const int64_t pixels = 5, inputs = 10, columns = 20, depth = padded(inputs, kernels.depth_step);
  const int64_t panels = padded(columns, Int8Kernels::kPanel);
  std::vector<uint8_t> x(pixels * inputs), wide((pixels + 32) * depth), y(pixels * columns);
  std::vector<int8_t> weight(columns * inputs), packed(panels * depth);
  std::vector<int32_t> sums(panels), bias(panels);
  std::vector<float> scale(panels);
  for (auto& value : x) {
    value = static_cast<uint8_t>(127.5 + 127 * next());
  }
  for (auto& value : weight) {
    value = static_cast<int8_t>(127 * next());
  }
  for (int64_t j = 0; j < columns; ++j) {
    bias[j] = static_cast<int32_t>(1000 * next());
    scale[j] = 0.001f;
  }
  kernels.pad(x.data(), pixels, inputs, depth, 0, wide.data());
  kernels.pack(weight.data(), inputs, depth, columns, packed.data(), sums.data());
  const Rounding to{255 - 100, 100, 0};
  kernels.multiply(
      wide.data(), pixels, depth, packed.data(), columns, {bias.data(), scale.data(), to}, nullptr, y.data(), columns);
  for (int64_t j = 0; j < columns; ++j) {
    int32_t of_row = 0;
    for (int64_t d = 0; d < inputs; ++d) {
      of_row += weight[j * inputs + d];
    }
    compare("sum of a row of bytes", sums[j], of_row, 0);
    for (int64_t i = 0; i < pixels; ++i) {
      int32_t sum = bias[j];
      for (int64_t d = 0; d < inputs; ++d) {
        sum += x[i * inputs + d] * weight[j * inputs + d];
      }
      const double want = std::clamp(std::nearbyint(sum * 0.001f) + 100, 0.0f, 255.0f);
      compare("product of bytes", y[i * columns + j], want, 0);
    }
  }
}

} // namespace

int main() {
  const auto& [f, rows] = generic::float_tables;
  const auto& [d, rows_of_double] = generic::double_tables;
  test_depthwise(f, 1e-4);
  test_depthwise(d, 1e-12);
  test_products(f, 1e-4);
  test_products(d, 1e-12);
  test_rows(rows.of_float, f.vector, 1e-5);
  test_rows(rows.of_bfloat16, f.vector, 1e-2);
  test_rows(rows_of_double, d.vector, 1e-12);
  test_products_of_bytes(generic::int8_kernels);
#if defined(__aarch64__)
  const char* processor = "aarch64";
#else
  const char* processor = "this processor";
#endif
  std::printf("%d values of the kernels for any processor on %s, %d wrong\n", compared, processor, wrong);
  return wrong || !compared;
}
