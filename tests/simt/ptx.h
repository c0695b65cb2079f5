// Inline PTX on the runner: ptx.py makes of an asm statement an Instruction of the very text, and gives it the operands.
// So an operand in a wrong place, a wrong type or a missing instruction has the effect that it has on a GPU.
#pragma once

#include <initializer_list>

#include "copies.h"
#include "tensor_cores.h"

inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
// Which shared variable, and where in it.
inline size_t __cvta_generic_to_shared(const void* pointer) {
  for (size_t i = 0; i < simt::memory.shared.size(); ++i) {
    const auto offset = static_cast<size_t>(static_cast<const char*>(pointer) - simt::memory.shared[i].base);
    if (offset < simt::memory.shared[i].bytes) {
      return i << 24 | offset;
    }
  }
  simt::fail("takes what is not shared memory for that");
}

namespace simt {

// "constraint"(value), as an asm statement has it.
struct Operand {
  const char* constraint;
  const void* value;
  size_t bytes;

  template <typename T>
  Operand(const char* constraint, const T& value) : constraint(constraint), value(&value), bytes(sizeof(T)) {}

  template <typename T>
  T read() const {
    require(*constraint != '=', "an asm statement reads an operand that is only written");
    require(bytes == sizeof(T), "an operand of an asm statement has another size");
    return *static_cast<const T*>(value);
  }
  template <typename T>
  T& written() const {
    require(*constraint == '=' || *constraint == '+', "an asm statement writes an operand that is only read");
    require(bytes == sizeof(T), "an operand of an asm statement has another size");
    return *const_cast<T*>(static_cast<const T*>(value));
  }
};

class Instruction {
 public:
  // "name {%0, %1}, [%2], 16;"
  explicit Instruction(const std::string& text) {
    const auto end = text.find_first_of(" ;");
    name_ = text.substr(0, end);
    if (const auto found = known().find(name_); found != known().end()) {
      run_ = found->second;
    }
    bool list = false;
    for (auto at = end; at < text.size(); ++at) {
      list = text[at] == '{' || (list && text[at] != '}');
      if (text[at] == '%') {
        if (!list || text[text.find_last_not_of(' ', at - 1)] == '{') {
          arguments_.emplace_back();
        }
        arguments_.back().push_back(std::stoi(text.substr(at + 1)));
      } else if (isdigit(text[at]) && !isdigit(text[at - 1]) && text[at - 1] != '%') {
        numbers_.push_back(std::stoi(text.substr(at)));
      }
    }
  }

  void operator()(bool memory, std::initializer_list<Operand> operands, SIMT_PLACE) const {
    if (!run_) {
      fail("the runner does not know the instruction " + name_);
    }
    run_({*this, operands.begin(), operands.size(), memory, place});
  }

 private:
  struct Call {
    const Instruction& instruction;
    const Operand* operands;
    size_t count;
    bool memory; // it tells the compiler that it touches memory
    const Place& place;

    const Operand& at(size_t argument, size_t i = 0) const {
      const auto& all = instruction.arguments_;
      require(argument < all.size() && i < all[argument].size(), "an instruction with too few operands");
      require(static_cast<size_t>(all[argument][i]) < count, "an instruction of an operand that is not there");
      return operands[all[argument][i]];
    }
    template <size_t n, typename T = uint32_t>
    std::array<T, n> read(size_t argument) const {
      require(instruction.arguments_.at(argument).size() == n, "an instruction with another number of registers");
      std::array<T, n> values;
      for (size_t i = 0; i < n; ++i) {
        values[i] = at(argument, i).template read<T>();
      }
      return values;
    }
    // What a shared address names.
    char* shared(size_t argument) const {
      require(memory, "an instruction that touches memory does not say so");
      const auto address = at(argument).read<uint32_t>();
      return simt::memory.shared.at(address >> 24).base + (address & 0xffffff);
    }
  };

  // d {…}, a {…}, b {…}, c {…}
  template <typename Form>
  static void multiply(const Call& call) {
    using Sum = typename Form::Sum;
    auto sums = call.read<4, Sum>(3);
    multiply_matrices<Form>(sums, call.read<4>(1), call.read<2>(2), call.place);
    for (int i = 0; i < 4; ++i) {
      call.at(0, i).written<Sum>() = sums[i];
    }
  }
  template <typename A, typename B>
  static void multiply_four(const Call& call) {
    auto sum = call.at(3).read<uint32_t>();
    for (int i = 0; i < 4; ++i) {
      sum += Bytes<A, B>::a(call.at(1).read<uint32_t>(), i) * Bytes<A, B>::b(call.at(2).read<uint32_t>(), i);
    }
    call.at(0).written<uint32_t>() = sum;
  }

  using Run = void (*)(const Call&);
  static const std::map<std::string, Run>& known() {
    static const std::map<std::string, Run> all = {
        {"cp.async.cg.shared.global",
         [](const Call& call) {
           require(call.instruction.numbers_ == std::vector<int>{16}, "cp.async.cg copies 16 bytes");
           copy_async(call.shared(0), call.at(1).read<const void*>(), call.at(2).read<int>());
         }},
        {"cp.async.wait_all",
         [](const Call& call) {
           require(call.memory, "an instruction that touches memory does not say so");
           wait_for_copies();
         }},
        {"ldmatrix.sync.aligned.m8n8.x4.shared.b16",
         [](const Call& call) {
           uint32_t words[4];
           load_matrices(words, call.shared(1), call.place);
           for (int i = 0; i < 4; ++i) {
             call.at(0, i).written<uint32_t>() = words[i];
           }
         }},
        {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", &multiply<Halves<c10::Half>>},
        {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", &multiply<Halves<c10::BFloat16>>},
        {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", &multiply<Tf32Words>},
        {"mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32", &multiply<Bytes<uint8_t, int8_t>>},
        {"mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32", &multiply<Bytes<int8_t, uint8_t>>},
        {"dp4a.u32.s32", &multiply_four<uint8_t, int8_t>},
        {"dp4a.s32.u32", &multiply_four<int8_t, uint8_t>},
        {"cvt.rna.tf32.f32",
         [](const Call& call) {
           call.at(0).written<uint32_t>() = to_tf32(std::bit_cast<uint32_t>(call.at(1).read<float>()));
         }},
    };
    return all;
  }

  std::string name_;
  Run run_ = nullptr;
  std::vector<std::vector<int>> arguments_; // the operands of each
  std::vector<int> numbers_;
};

} // namespace simt
