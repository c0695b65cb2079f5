// The memory of kernels on the runner. It is made to tell: all of it holds 0xff, a NaN, before a launch or block; no
// page before or behind a buffer may be touched; inputs cannot be written. What a kernel is given as a global pointer
// points nowhere: only load() and store() know (by access()) where the memory is, check the bounds to the byte, and
// count.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "fiber.h"

namespace simt {

constexpr size_t kArena = size_t(1) << 30;

[[noreturn]] void fail(const std::string& what); // in simt.h

// A buffer in pages of its own, between two that nobody may touch.
struct Region {
  std::string name;
  char* base;
  size_t bytes;
  char *low, *high; // its pages
  const void* key; // of a shared variable: what names it
  int launch; // in which it was declared last
  int64_t block_sectors[2] = {}; // of a buffer, as below
};

struct Counts {
  int64_t requests, sectors, bytes, block_sectors;
};

// Requests to shared memory, the cycles that they take, and those that they would take without bank conflicts.
struct SharedCounts {
  int64_t requests, wavefronts, least;
};

// What cp.async has yet to bring to 16 bytes of shared memory.
struct Copy {
  char* to;
  const char* from;
  int bytes;
};

// A warp's request at one place in the code, each lane coming there for the n-th time.
using Visit = std::tuple<unsigned, void*, int>;

struct Memory {
  char* arena = nullptr; // global memory lies here; what kernels are given lies kArena above, and is not mapped
  size_t used = 0;
  std::vector<int> buffer_of; // by page of the arena
  std::vector<Region> buffers, shared;
  bool counting = false;
  Counts counts[2] = {}; // loads, stores
  // The block's requests: sectors by warp, place in the code, how often a lane came there, load or store.
  std::map<std::tuple<unsigned, void*, int, bool>, std::set<size_t>> requests;
  std::map<std::pair<unsigned, void*>, int> visits; // by thread
  SharedCounts shared_counts = {};
  std::map<Visit, std::vector<std::tuple<unsigned, size_t, size_t>>> shared_requests; // lane, address, bytes
  std::map<unsigned, std::vector<Copy>> copies; // by thread
  std::unordered_multiset<uintptr_t> pending; // where they go, in units of 16 bytes
  std::map<unsigned, int64_t> waits; // of a thread that had copies
  int64_t block_copies = 0, copies_a_wait = 0; // of a block; of that block of the launch which had most
};
inline Memory memory;

// Calls apply(count) for every count.
template <typename Apply>
void for_counts(Apply apply) {
  for (auto& c : memory.counts) {
    for (auto* count : {&c.requests, &c.sectors, &c.bytes, &c.block_sectors}) {
      apply(*count);
    }
  }
  for (auto* count :
       {&memory.shared_counts.requests, &memory.shared_counts.wavefronts, &memory.shared_counts.least}) {
    apply(*count);
  }
  for (auto& r : memory.buffers) {
    for (auto& count : r.block_sectors) {
      apply(count);
    }
  }
}

inline void poison(const Region& r) {
  ASAN_UNPOISON_MEMORY_REGION(r.low, r.high - r.low);
  std::memset(r.low, 0xff, r.high - r.low);
  ASAN_POISON_MEMORY_REGION(r.low, r.base - r.low);
  ASAN_POISON_MEMORY_REGION(r.base + r.bytes, r.high - r.base - r.bytes);
}

inline char* reserve(size_t bytes, char* where = nullptr) {
  const int fixed = where ? MAP_FIXED : 0;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed;
  return static_cast<char*>(mmap(where, bytes, PROT_NONE, flags, -1, 0));
}

// `bytes` in pages from `low` on, `offset` behind a multiple of `alignment`, as near to one border as that allows.
inline Region make_region(const char* name, char* low, size_t bytes, size_t alignment, size_t offset, bool at_end) {
  const size_t room = (bytes + offset + alignment - 1) / alignment * alignment;
  const size_t pages = (room + kPage - 1) / kPage * kPage;
  mprotect(low, pages, PROT_READ | PROT_WRITE);
  const Region region = {name, (at_end ? low + pages - room : low) + offset, bytes, low, low + pages, nullptr, 0, {}};
  poison(region);
  return region;
}

// The block's instance of a shared variable, known by the address of a static one in its place.
inline void* shared_variable(const void* key, const char* name, size_t bytes, int launch) {
  auto& all = memory.shared;
  auto it = std::find_if(all.begin(), all.end(), [&](auto& r) { return r.key == key && r.bytes == bytes; });
  if (it == all.end()) {
    it = all.insert(it, make_region(name, reserve(bytes + 3 * kPage) + kPage, bytes, 32, 0, true));
    it->key = key;
  }
  if (it->launch != launch) {
    it->launch = launch;
    poison(*it);
  }
  return it->base;
}

// Adds up the block's requests to shared memory. Its 32 banks are 4 bytes wide; lanes with 8 bytes take turns by halves
// of the warp, with 16 by quarters, and one word is read by any number of lanes at once.
inline void count_shared() {
  auto& counts = memory.shared_counts;
  for (const auto& [visit, lanes] : memory.shared_requests) {
    std::map<size_t, std::map<size_t, std::set<size_t>>> words; // by turn and bank
    for (const auto& [lane, address, bytes] : lanes) {
      for (size_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) {
        words[lane * bytes / 128 * (bytes > 4)][word % 32].insert(word);
      }
    }
    ++counts.requests;
    for (const auto& [turn, banks] : words) {
      size_t most = 0, all = 0;
      for (const auto& [bank, of_bank] : banks) {
        most = std::max(most, of_bank.size());
        all += of_bank.size();
      }
      counts.wavefronts += most;
      counts.least += (all + 31) / 32;
    }
  }
  memory.shared_requests.clear();
}

// A new block finds nothing in its shared memory.
inline void begin_block(int launch) {
  memory.copies.clear();
  memory.waits.clear();
  memory.block_copies = 0;
  memory.pending.clear();
  for (const auto& r : memory.shared) {
    if (r.launch == launch) {
      poison(r);
    }
  }
}

inline void end_block([[maybe_unused]] int launch) {
  if (!memory.pending.empty()) {
    fail("a thread returned without having waited for its copies");
  }
  int64_t waits = 1;
  for (const auto& [thread, of_thread] : memory.waits) {
    waits = std::max(waits, of_thread);
  }
  memory.copies_a_wait = std::max(memory.copies_a_wait, memory.block_copies / waits);
#ifndef __SANITIZE_ADDRESS__ // which sees such a write itself, and would mind this look
  for (const auto& r : memory.shared) {
    if (r.launch == launch && std::any_of(r.base + r.bytes, r.high, [](char c) { return c != '\xff'; })) {
      fail("writes behind the end of '" + r.name + "'");
    }
  }
#endif
  std::set<std::pair<size_t, bool>> of_block;
  for (const auto& [request, sectors] : memory.requests) {
    const bool write = std::get<3>(request);
    auto& counts = memory.counts[write];
    counts.requests += 1;
    counts.sectors += sectors.size();
    for (const auto sector : sectors) {
      if (of_block.insert({sector, write}).second) {
        ++counts.block_sectors;
        ++memory.buffers[memory.buffer_of[sector * 32 / kPage]].block_sectors[write];
      }
    }
  }
  count_shared();
  memory.requests.clear();
  memory.visits.clear();
}

// What an access that is not allowed touched, in words.
inline std::string describe(const char* p) {
  for (const auto* regions : {&memory.buffers, &memory.shared}) {
    for (const auto& r : *regions) {
      if (p >= r.base + r.bytes && p < r.high + kPage) {
        return std::to_string(p - r.base - r.bytes + 1) + " bytes behind the end of '" + r.name + "'";
      }
      if (p < r.base && p >= r.low - kPage) {
        return std::to_string(r.base - p) + " bytes in front of '" + r.name + "'";
      }
      if (p >= r.base && p < r.base + r.bytes) {
        return "the input '" + r.name + "'";
      }
    }
  }
  const bool global = p >= memory.arena + kArena && p < memory.arena + 2 * kArena;
  return global ? "global memory otherwise than by load() and store()" : "unknown memory";
}

__attribute__((noinline)) inline void note_shared(const void* p, size_t bytes, unsigned thread) {
  auto* const place = __builtin_return_address(0);
  const Visit visit = {thread / 32, place, memory.visits[{thread, place}]++};
  memory.shared_requests[visit].emplace_back(thread % 32, reinterpret_cast<size_t>(p), bytes);
}

inline void check_pending(const void* p, size_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(p);
  for (uintptr_t unit = first / 16; unit <= (first + bytes - 1) / 16; ++unit) {
    if (memory.pending.contains(unit)) {
      fail("touches shared memory that a copy has yet to fill");
    }
  }
}

// An access to shared memory.
__attribute__((always_inline)) inline void touch(const void* p, size_t bytes, unsigned thread) {
  if (!memory.pending.empty()) {
    check_pending(p, bytes);
  }
  if (memory.counting) {
    note_shared(p, bytes, thread);
  }
}

// Where the memory of a global pointer is. A warp's request is what its lanes do at one place in the code, each coming
// there for the n-th time.
__attribute__((noinline)) inline char*
access(const void* pointer, size_t bytes, size_t alignment, bool write, unsigned thread) {
  const char* const verb = write ? "writes " : "reads ";
  const auto offset = static_cast<size_t>(static_cast<const char*>(pointer) - memory.arena - kArena);
  if (offset >= kArena || memory.buffer_of[offset / kPage] < 0) {
    fail(verb + std::string(pointer ? "what is no buffer" : "at a null pointer"));
  }
  char* const p = memory.arena + offset;
  const auto& r = memory.buffers[memory.buffer_of[offset / kPage]];
  if (p < r.base || p + bytes > r.base + r.bytes) {
    fail(verb + describe(p < r.base ? p : p + bytes - 1));
  }
  if (offset % alignment) {
    fail(verb + std::to_string(bytes) + " bytes of '" + r.name + "' at once where they are not aligned");
  }
  if (memory.counting) {
    auto* const place = __builtin_return_address(0);
    auto& request = memory.requests[{thread / 32, place, memory.visits[{thread, place}]++, write}];
    for (size_t sector = offset / 32; sector <= (offset + bytes - 1) / 32; ++sector) {
      request.insert(sector);
    }
    memory.counts[write].bytes += bytes;
  }
  return p;
}

} // namespace simt
