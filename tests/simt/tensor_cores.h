// The tensor cores' instructions on the runner, with the elements in the lanes where the PTX manual has them ("Matrix
// fragments for mma.m16n8k8", "… mma.m16n8k16", "… mma.m16n8k32", "ldmatrix"): a register holds neighbours along k.
//
// A warp that comes to ldmatrix has met there, which would hide that it did not wait for its own stores before: no lane
// reads before all have come. So what is read is what shared memory held when the first lane came. What other lanes
// stored since is not yet seen, wherever in the matrices it belongs.
#pragma once

#include <array>
#include <bit>

#include "simt.h"

namespace simt {

// Shared memory as it was: a copy of each of its variables.
using Snapshot = std::vector<std::pair<const char*, std::vector<char>>>;
inline Snapshot snapshots[kMaxThreads / 32]; // by warp

inline Snapshot take_snapshot() {
  Snapshot taken;
  for (const auto& r : memory.shared) {
    if (r.launch == s.launches) {
      taken.emplace_back(r.base, std::vector<char>(r.base, r.base + r.bytes));
    }
  }
  return taken;
}

// Words of shared memory as they were, or as they are when only counting.
inline void read_words(const Snapshot& snapshot, const char* from, uint32_t* to, size_t bytes) {
  for (const auto& [base, copy] : snapshot) {
    if (from >= base && from + bytes <= base + copy.size()) {
      std::memcpy(to, copy.data() + (from - base), bytes);
      return;
    }
  }
  fail("ldmatrix reads what is not shared memory");
}

inline void require_rows(const void* row, size_t stride) {
  require(reinterpret_cast<uintptr_t>(row) % 16 == 0, "a row of a matrix is not on a multiple of 16 bytes");
  require(stride % 16 == 0, "the rows of a matrix are not multiples of 16 bytes apart");
}

inline void load_matrices(uint32_t (&to)[4], const void* row, const Place& place) {
  struct Lane {
    const char* row;
    uint32_t* to;
  } lane = {static_cast<const char*>(row), to};
  require_rows(row, 0);
  touch(row, 16, threadIdx.x);
  auto& snapshot = snapshots[s.current / 32];
  if (s.in_warp[s.current / 32] == 0 && !memory.counting) {
    snapshot = take_snapshot();
  }
  wait_warp(kFullMask, reinterpret_cast<uint64_t>(&lane), place, [&](auto warp) {
    for (int l = 0; l < 32 && !memory.counting; ++l) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const char* const from = reinterpret_cast<Lane*>(warp[8 * matrix + l / 4].value)->row;
        read_words(snapshot, from + l % 4 * 4, reinterpret_cast<Lane*>(warp[l].value)->to + matrix, 4);
      }
    }
  });
}

inline uint32_t to_tf32(uint32_t bits) {
  return std::isnan(std::bit_cast<float>(bits)) ? bits : (bits + 0x1000) & ~0x1fffu;
}

// What a register of a fragment holds: elements of a and of b, the lowest bits first. What was never written stays to be
// seen as that.
template <typename T>
struct Halves {
  using Sum = float;
  static constexpr int elements = 2;
  static float a(uint32_t word, int i) {
    const auto bits = uint16_t(word >> (i * 16));
    return bits == 0xffff ? std::bit_cast<float>(0xffffffffu) : float(T(bits, T::from_bits()));
  }
  static float b(uint32_t word, int i) {
    return a(word, i);
  }
};
struct Tf32Words {
  using Sum = float;
  static constexpr int elements = 1;
  static float a(uint32_t word, int) {
    return std::bit_cast<float>(std::isnan(std::bit_cast<float>(word)) ? word : word & ~0x1fffu);
  }
  static float b(uint32_t word, int) {
    return a(word, 0);
  }
};
template <typename A, typename B>
struct Bytes {
  using Sum = uint32_t; // which wraps around
  static constexpr int elements = 4;
  static int a(uint32_t word, int i) {
    return A(word >> (i * 8));
  }
  static int b(uint32_t word, int i) {
    return B(word >> (i * 8));
  }
};

// c [16][8] += a [16][k] · b [k][8], with k four registers' elements times two.
template <typename Form, typename Sum = typename Form::Sum>
void multiply_matrices(
    std::array<Sum, 4>& c, const std::array<uint32_t, 4>& a, const std::array<uint32_t, 2>& b, const Place& place) {
  struct Lane {
    std::array<Sum, 4>& c;
    const std::array<uint32_t, 4>& a;
    const std::array<uint32_t, 2>& b;
  } lane = {c, a, b};
  wait_warp(kFullMask, reinterpret_cast<uint64_t>(&lane), place, [](auto warp) {
    if (memory.counting) {
      return;
    }
    constexpr int n = Form::elements, half = 4 * n;
    Sum a[16][2 * half], b[2 * half][8];
    for (int l = 0; l < 32; ++l) {
      const auto& lane = *reinterpret_cast<Lane*>(warp[l].value);
      const int group = l / 4, first = l % 4 * n;
      for (int i = 0; i < n; ++i) {
        for (int word = 0; word < 4; ++word) {
          a[group + word % 2 * 8][first + i + word / 2 * half] = Form::a(lane.a[word], i);
        }
        for (int word = 0; word < 2; ++word) {
          b[first + i + word * half][group] = Form::b(lane.b[word], i);
        }
      }
    }
    for (int l = 0; l < 32; ++l) {
      const auto& lane = *reinterpret_cast<Lane*>(warp[l].value);
      for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 2 * half; ++k) {
          lane.c[i] += a[l / 4 + i / 2 * 8][k] * b[k][l % 4 * 2 + i % 2];
        }
      }
    }
  });
}

} // namespace simt
