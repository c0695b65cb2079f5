// A batch norm with the activation behind it, as device code applies both to channels that it has loaded: in the
// passes of batch_norm_act, and in the depthwise convolution behind one.
#pragma once

#include "cuda/activation_kernels.cuh"

namespace supernet::cuda {

// Arrays [channels] in global memory; gamma and beta may be null.
template <typename Acc>
struct NormAct {
  const Acc *mean, *var, *gamma, *beta;
  Acc eps;
  Activation act;
};

// One value per channel for a thread's vector; `otherwise` without an array and beyond the channels.
template <int kSize, typename Acc>
struct Values {
  Acc v[kSize];

  __device__ Values(const Acc* from, int channel, int channels, Acc otherwise) {
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      v[j] = from && channel + j < channels ? cuda::load(from + channel + j) : otherwise;
    }
  }
};

// Of a thread's vector of channels: the activation's input is z = (x - center) scale + shift.
template <int kSize, typename Acc>
struct ChannelNorms {
  Acc center[kSize], scale[kSize], shift[kSize];

  __device__ __forceinline__ Acc distance(int j, Acc x) const {
    return x - center[j];
  }
  __device__ __forceinline__ Acc z(int j, Acc x) const {
    return distance(j, x) * scale[j] + shift[j];
  }
};

template <int kSize, typename Acc>
__device__ __forceinline__ ChannelNorms<kSize, Acc> load_norms(const NormAct<Acc>& norm, int channel, int channels) {
  const Values<kSize, Acc> mean(norm.mean, channel, channels, 0), var(norm.var, channel, channels, 1);
  const Values<kSize, Acc> gamma(norm.gamma, channel, channels, 1), beta(norm.beta, channel, channels, 0);
  ChannelNorms<kSize, Acc> out;
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    out.center[j] = mean.v[j];
    out.scale[j] = gamma.v[j] * rsqrt(var.v[j] + norm.eps);
    out.shift[j] = beta.v[j];
  }
  return out;
}

// Those of a block's channels in shared memory, [center, scale, shift][kChannels], on 16 bytes: a kernel whose
// registers are taken reads its thread's anew where it needs them.
template <int kChannels>
struct SharedNorms {
  static constexpr int count = 3 * kChannels;
  float* values;

  // By as many threads as there are channels; a barrier has to follow.
  __device__ void fill(const NormAct<float>& norm, int channel, int channels) const {
    const int c = threadIdx.x;
    if (c < kChannels) {
      const auto one = load_norms<1>(norm, channel + c, channels);
      values[c] = one.center[0];
      values[kChannels + c] = one.scale[0];
      values[2 * kChannels + c] = one.shift[0];
    }
  }

  // From the block's channel `first` on.
  template <int kSize>
  __device__ __forceinline__ ChannelNorms<kSize, float> read(int first) const {
    ChannelNorms<kSize, float> out;
    float* const parts[] = {out.center, out.scale, out.shift};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
#pragma unroll
      for (int j = 0; j < kSize; j += kQuad) {
        const Quad quad = load_quad(values + i * kChannels + first + j);
#pragma unroll
        for (int c = 0; c < kQuad; ++c) {
          parts[i][j + c] = quad.v[c];
        }
      }
    }
    return out;
  }
};

} // namespace supernet::cuda
