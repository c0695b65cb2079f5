#include "cuda/batch_norm_act_kernels.cuh"
#include "export.h"

using namespace supernet::cuda;

#define NORMS \
  const Acc *mean, const Acc *var, const Acc *gamma, const Acc *beta, Acc eps, int act
#define NORM \
  { mean, var, gamma, beta, eps, supernet::Activation(act) }

template <typename T, typename Acc>
void forward(const T* x, NORMS, T* y, int64_t pixels, int64_t channels, Stream stream) {
  norm_act<T, Acc>(x, NORM, y, pixels, channels, stream);
}

template <typename T, typename Acc>
void backward(
    const T* grad, const T* x, NORMS, Acc* partial, Acc* sums, T* grad_x, Acc* grad_gamma, Acc* grad_beta,
    int64_t pixels, int64_t channels, Stream stream) {
  norm_act_backward<T, Acc>(
      grad, x, NORM, partial, sums, grad_x, grad_gamma, grad_beta, pixels, channels, stream);
}

#define EXPORT(name, T, Acc)                              \
  SIMT_EXPORT(statistics_##name, norm_statistics<T, Acc>) \
  SIMT_EXPORT(forward_##name, forward<T, Acc>)            \
  SIMT_EXPORT(backward_##name, backward<T, Acc>)

EXPORT(float64, double, double)
EXPORT(float32, float, float)
EXPORT(float16, c10::Half, float)
EXPORT(bfloat16, c10::BFloat16, float)
