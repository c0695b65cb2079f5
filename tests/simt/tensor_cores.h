// The tensor cores' instructions on the runner, with the elements in the lanes where the PTX manual has them ("Matrix
// fragments for mma.m16n8k16", "… mma.m16n8k8", "ldmatrix").
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

inline void load_matrices(uint32_t (&to)[4], const void* row, SIMT_PLACE) {
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

// The i-th element of a fragment, of 16 bits with the lower half of a register first, or of 32. What was never written
// stays to be seen as that.
template <typename T, bool kTf32>
float element(const uint32_t* words, int i) {
  if constexpr (kTf32) {
    return std::bit_cast<float>(std::isnan(std::bit_cast<float>(words[i])) ? words[i] : words[i] & ~0x1fffu);
  } else {
    const auto bits = uint16_t(words[i / 2] >> (i % 2 * 16));
    return bits == 0xffff ? std::bit_cast<float>(0xffffffffu) : float(T(bits, T::from_bits()));
  }
}

inline uint32_t to_tf32(uint32_t bits) {
  return std::isnan(std::bit_cast<float>(bits)) ? bits : (bits + 0x1000) & ~0x1fffu;
}

template <typename T, bool kTf32>
void multiply_matrices(
    std::array<float*, 4> c, const uint32_t (&a)[4], std::array<uint32_t, 2> b, SIMT_PLACE) {
  struct Lane {
    std::array<float*, 4> c;
    const uint32_t* a;
    std::array<uint32_t, 2> b;
  } lane = {c, a, b};
  wait_warp(kFullMask, reinterpret_cast<uint64_t>(&lane), place, [](auto warp) {
    if (memory.counting) {
      return;
    }
    constexpr int kDepth = kTf32 ? 8 : 16;
    float a[16][kDepth], b[kDepth][8];
    for (int l = 0; l < 32; ++l) {
      const auto& lane = *reinterpret_cast<Lane*>(warp[l].value);
      const int group = l / 4, in_group = l % 4;
      if constexpr (kTf32) {
        for (int i = 0; i < 4; ++i) {
          a[i == 0 || i == 2 ? group : group + 8][i < 2 ? in_group : in_group + 4] = element<T, true>(lane.a, i);
        }
        for (int i = 0; i < 2; ++i) {
          b[i == 0 ? in_group : in_group + 4][group] = element<T, true>(lane.b.data(), i);
        }
      } else {
        for (int i = 0; i < 8; ++i) {
          const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
          a[row][in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)] = element<T, false>(lane.a, i);
        }
        for (int i = 0; i < 4; ++i) {
          b[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element<T, false>(lane.b.data(), i);
        }
      }
    }
    for (int l = 0; l < 32; ++l) {
      const auto& lane = *reinterpret_cast<Lane*>(warp[l].value);
      const int group = l / 4, in_group = l % 4;
      for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
        for (int k = 0; k < kDepth; ++k) {
          *lane.c[i] += a[row][k] * b[k][column];
        }
      }
    }
  });
}

} // namespace simt
