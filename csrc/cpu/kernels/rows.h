// Passes over rows of pixels for batch norm and activations, forward and backward.
//
// Some rows at a time, and of these vector after vector: the channel's values are loaded once for all of
// them, and memory is still read nearly in order.
#pragma once

#include "cpu/kernels/vector_ops.h"

namespace supernet::cpu::SUPERNET_ISA {

constexpr int64_t kRowsAtATime = 8;

template <bool B>
struct Bool {
  static constexpr bool value = B;
};

// Memory that a pass reads or writes in order. It is prefetched that way, some kilobytes ahead: the groups of
// rows alone would look like many short runs.
template <typename T, bool Write>
struct Stream {
  T* data;

  template <class V>
  SUPERNET_INLINE void prefetch_ahead(int64_t position, int64_t group) const {
    constexpr int64_t kLead = 2048;
    const T* p = data + position + group + kLead / sizeof(T);
    constexpr int64_t kLines = kRowsAtATime * V::kSize * sizeof(T) / 64;
    SUPERNET_UNROLL
    for (int i = 0; i < kLines; ++i) {
      if constexpr (!Write) {
        prefetch(p + i * kLine<T>);
      } else if constexpr (V::kFetchesWrites) {
        prefetch_to_write(p + i * kLine<T>);
      }
    }
  }
};

template <typename T>
SUPERNET_INLINE Stream<const T, false> reads(const T* p) {
  return {p};
}
template <typename T>
SUPERNET_INLINE Stream<T, true> writes(T* p) {
  return {p};
}

// Calls f(Bool<tail>, channel, mask, first row, end row) for each vector of each group of rows.
template <class V, class F, class... Streams>
SUPERNET_INLINE void for_each_vector(int64_t rows, int64_t channels, const F& f, const Streams&... streams) {
  const auto whole = channels / V::kSize * V::kSize;
  const auto mask = V::mask(channels - whole);
  const auto group = kRowsAtATime * channels;
  for (int64_t r = 0; r < rows; r += kRowsAtATime) {
    const auto end = std::min(rows, r + kRowsAtATime);
    for (int64_t c = 0; c < whole; c += V::kSize) {
      (streams.template prefetch_ahead<V>(r * channels + kRowsAtATime * c, group), ...);
      f(Bool<false>{}, c, mask, r, end);
    }
    if (whole < channels) {
      (streams.template prefetch_ahead<V>(r * channels + kRowsAtATime * whole, group), ...);
      f(Bool<true>{}, whole, mask, r, end);
    }
  }
}

// grad * act'(z)
template <Activation Act, class V>
SUPERNET_INLINE V grad_through(V grad, V z) {
  using S = typename V::Scalar;
  if constexpr (Act == Activation::relu) {
    return V::where_greater(z, V::zero(), grad);
  } else if constexpr (Act == Activation::relu6) {
    return V::where_greater(z, V::zero(), V::where_greater(V::set(S(6)), z, grad));
  } else if constexpr (Act == Activation::hard_swish) {
    // 0 up to -3, z / 3 + 1 / 2, 1 from 3 on
    const V slope = V::fma(z, V::set(S(1) / 3), V::set(S(-0.5)));
    const V factor = V::where_greater(V::set(S(3)), z, slope) + V::set(S(1));
    return grad * V::where_greater(z, V::set(S(-3)), factor);
  } else if constexpr (Act == Activation::swish) {
    const V s = sigmoid(z);
    return grad * s * V::fma(z, V::set(S(1)) - s, V::set(S(1)));
  }
  return grad;
}

// Calls f(Bool-like constant of the activation): one copy of the loop for each.
template <Activation Act>
struct Activated {
  static constexpr Activation value = Act;
};

template <class F>
SUPERNET_INLINE void with_activation(Activation act, const F& f) {
  switch (act) {
    case Activation::none:
      return f(Activated<Activation::none>{});
    case Activation::relu:
      return f(Activated<Activation::relu>{});
    case Activation::relu6:
      return f(Activated<Activation::relu6>{});
    case Activation::hard_swish:
      return f(Activated<Activation::hard_swish>{});
    case Activation::swish:
      return f(Activated<Activation::swish>{});
  }
}

template <class V, typename From, typename To>
void convert(const From* x, int64_t n, To* y) {
  int64_t i = 0;
  for (; i + V::kSize <= n; i += V::kSize) {
    V::load(x + i).store(y + i);
  }
  if (i < n) {
    const auto mask = V::mask(n - i);
    V::load(x + i, mask).store(y + i, mask);
  }
}

template <class V, typename T>
void moments(const T* x, int64_t rows, int64_t channels, typename V::Scalar* out) {
  const auto padded = padded_to<V>(channels);
  const auto body = [&](auto tail, int64_t c, auto mask, int64_t begin, int64_t end) {
    constexpr bool kTail = decltype(tail)::value;
    auto* at = out + c;
    if (begin == 0) {
      load<V, kTail>(x + c, mask).store(at);
      V::zero().store(at + padded);
      V::zero().store(at + 2 * padded);
    }
    const V shift = V::load(at);
    V sum = V::load(at + padded), squares = V::load(at + 2 * padded);
    for (auto r = begin; r < end; ++r) {
      const V d = load<V, kTail>(x + r * channels + c, mask) - shift;
      sum = sum + d;
      squares = V::fma(d, d, squares);
    }
    sum.store(at + padded);
    squares.store(at + 2 * padded);
  };
  for_each_vector<V>(rows, channels, body, reads(x));
}

// y = act(scale * x + shift), and residual where it is added
template <class V, bool Residual, typename T, typename To>
SUPERNET_INLINE void normalise_rows(
    const T* x,
    int64_t rows,
    int64_t channels,
    const Affine<typename V::Scalar>& bn,
    const T* residual,
    To* y) {
  with_activation(bn.act, [&](auto act) {
    const auto body = [&](auto tail, int64_t c, auto mask, int64_t begin, int64_t end) {
      constexpr bool kTail = decltype(tail)::value;
      const V scale = V::load(bn.scale + c), shift = V::load(bn.shift + c);
      for (auto r = begin; r < end; ++r) {
        const auto i = r * channels + c;
        V z = activate(decltype(act)::value, V::fma(load<V, kTail>(x + i, mask), scale, shift));
        if constexpr (Residual) {
          z = z + load<V, kTail>(residual + i, mask);
        }
        store<kTail>(z, y + i, mask);
      }
    };
    for_each_vector<V>(rows, channels, body, reads(x), writes(y));
  });
}

template <class V, typename T>
void normalise(
    const T* x, int64_t rows, int64_t channels, const Affine<typename V::Scalar>& bn, typename V::Scalar* y) {
  normalise_rows<V, false, T>(x, rows, channels, bn, nullptr, y);
}

template <class V, typename T>
void normalise_store(
    const T* x,
    int64_t rows,
    int64_t channels,
    const Affine<typename V::Scalar>& bn,
    const T* residual,
    T* y) {
  if (residual) {
    normalise_rows<V, true, T>(x, rows, channels, bn, residual, y);
  } else {
    normalise_rows<V, false, T>(x, rows, channels, bn, residual, y);
  }
}

// Sums of g = grad * act'(z) and of g * (x - mean), z = scale * x + shift; g into `masked` where not null.
template <class V, typename G, typename T>
void reduce_grad(
    const G* grad,
    const T* x,
    int64_t rows,
    int64_t channels,
    const Affine<typename V::Scalar>& bn,
    const typename V::Scalar* mean,
    typename V::Scalar* sums,
    G* masked) {
  const auto padded = padded_to<V>(channels);
  with_activation(bn.act, [&](auto act) {
    const auto body = [&](auto tail, int64_t c, auto mask, int64_t begin, int64_t end) {
      constexpr bool kTail = decltype(tail)::value;
      constexpr auto kAct = decltype(act)::value;
      const V scale = V::load(bn.scale + c), shift = V::load(bn.shift + c), center = V::load(mean + c);
      V sum = begin == 0 ? V::zero() : V::load(sums + c);
      V product = begin == 0 ? V::zero() : V::load(sums + padded + c);
      for (auto r = begin; r < end; ++r) {
        const auto i = r * channels + c;
        const V value = load<V, kTail>(x + i, mask);
        const V g = grad_through<kAct>(load<V, kTail>(grad + i, mask), V::fma(value, scale, shift));
        if (kAct != Activation::none && masked) {
          store<kTail>(g, masked + i, mask);
        }
        sum = sum + g;
        product = V::fma(g, value - center, product);
      }
      sum.store(sums + c);
      product.store(sums + padded + c);
    };
    for_each_vector<V>(rows, channels, body, reads(x), reads(grad));
  });
}

template <class V, typename T>
void reduce_grad_of(
    const T* grad,
    const T* x,
    int64_t rows,
    int64_t channels,
    const Affine<typename V::Scalar>& bn,
    const typename V::Scalar* mean,
    typename V::Scalar* sums) {
  reduce_grad<V, T, T>(grad, x, rows, channels, bn, mean, sums, nullptr);
}

template <class V, typename T>
void mask_and_reduce_grad(
    typename V::Scalar* grad,
    const T* x,
    int64_t rows,
    int64_t channels,
    const Affine<typename V::Scalar>& bn,
    const typename V::Scalar* mean,
    typename V::Scalar* sums) {
  reduce_grad<V, typename V::Scalar, T>(grad, x, rows, channels, bn, mean, sums, grad);
}

// y = a * grad * act'(z) + b * x + c, with abc = [3][padded]
template <class V, typename G, typename T, typename To>
void input_grad(
    const G* grad,
    const T* x,
    int64_t rows,
    int64_t channels,
    const Affine<typename V::Scalar>& bn,
    const typename V::Scalar* abc,
    To* y) {
  const auto padded = padded_to<V>(channels);
  with_activation(bn.act, [&](auto act) {
    const auto body = [&](auto tail, int64_t c, auto mask, int64_t begin, int64_t end) {
      constexpr bool kTail = decltype(tail)::value;
      const V scale = V::load(bn.scale + c), shift = V::load(bn.shift + c);
      const V of_grad = V::load(abc + c), of_x = V::load(abc + padded + c);
      const V rest = V::load(abc + 2 * padded + c);
      for (auto r = begin; r < end; ++r) {
        const auto i = r * channels + c;
        const V value = load<V, kTail>(x + i, mask);
        const V z = V::fma(value, scale, shift);
        const V g = grad_through<decltype(act)::value>(load<V, kTail>(grad + i, mask), z);
        store<kTail>(V::fma(of_grad, g, V::fma(of_x, value, rest)), y + i, mask);
      }
    };
    for_each_vector<V>(rows, channels, body, reads(x), reads(grad), writes(y));
  });
}

} // namespace supernet::cpu::SUPERNET_ISA
