#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>
#include <unordered_map>
#include <vector>

#include "ops/autograd.h"

namespace supernet {
namespace {

using at::Tensor;
using c10::IValue;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using torch::jit::Stack;

std::string backward_of(std::string name) {
  constexpr std::string_view kTrain = "_train";
  if (name.ends_with(kTrain)) {
    name.resize(name.size() - kTrain.size());
  }
  return name + "_backward";
}

size_t find(const std::vector<c10::Argument>& among, const std::string& name) {
  size_t i = 0;
  while (i < among.size() && among[i].name() != name) {
    ++i;
  }
  return i;
}

// Where the arguments of a backward operator come from, and where its results go.
struct Plan {
  enum class From { grad, argument, output, needed };
  struct Source {
    std::string name;
    From from;
    size_t index; // of the forward operator's argument or output
  };

  c10::OperatorHandle op; // the backward operator
  std::vector<Source> arguments;
  std::vector<size_t> results; // by forward argument, which result is its gradient; their number: none

  explicit Plan(const c10::FunctionSchema& forward)
      : op(c10::Dispatcher::singleton().findSchemaOrThrow(backward_of(forward.name()).c_str(), "")) {
    for (const auto& argument : op.schema().arguments()) {
      const auto& name = argument.name();
      const auto input = find(forward.arguments(), name), output = find(forward.returns(), name);
      if (input < forward.arguments().size()) {
        arguments.push_back({name, From::argument, input});
      } else if (output < forward.returns().size()) {
        arguments.push_back({name, From::output, output});
      } else {
        arguments.push_back({name, name == "grad" ? From::grad : From::needed, 0});
      }
    }
    for (const auto& argument : forward.arguments()) {
      results.push_back(find(op.schema().returns(), argument.name()));
    }
  }

  // Made once for each operator; lives as long as the process.
  static const Plan& of(const c10::OperatorHandle& forward) {
    static std::mutex mutex;
    static std::unordered_map<c10::OperatorName, Plan> plans;
    const std::lock_guard lock(mutex);
    return plans.try_emplace(forward.operator_name(), forward.schema()).first->second;
  }
};

// The tensors of an argument or result, an optional one that is not given as undefined; none of other types.
variable_list tensors_of(const IValue& value) {
  if (value.isTensorList()) {
    return value.toTensorVector();
  }
  return value.isTensor() || value.isNone() ? variable_list{value.isTensor() ? value.toTensor() : Tensor()}
                                            : variable_list();
}

variable_list tensors_of(c10::ArrayRef<IValue> values) {
  variable_list out;
  for (const auto& value : values) {
    const auto tensors = tensors_of(value);
    out.insert(out.end(), tensors.begin(), tensors.end());
  }
  return out;
}

variable_list defined(variable_list tensors) {
  std::erase_if(tensors, [](const Tensor& t) { return !t.defined(); });
  return tensors;
}

// Runs an operator on the arguments on the stack, below autograd.
void redispatch(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
}

struct Differentiable : Function<Differentiable> {
  // The list holds the tensors among the arguments on the stack, those that are given.
  static variable_list forward(
      AutogradContext* ctx, at::TensorList, const c10::OperatorHandle& op, c10::DispatchKeySet keys,
      Stack* stack) {
    const auto& plan = Plan::of(op);
    const auto arguments = torch::jit::last(*stack, op.schema().arguments().size()).vec();
    redispatch(op, keys, stack);
    const auto outputs = torch::jit::last(*stack, op.schema().returns().size());

    ctx->saved_data["plan"] = reinterpret_cast<int64_t>(&plan);
    variable_list kept;
    for (const auto& source : plan.arguments) {
      if (source.from == Plan::From::argument || source.from == Plan::From::output) {
        const auto& value =
            source.from == Plan::From::argument ? arguments[source.index] : outputs[source.index];
        const auto tensors = tensors_of(value);
        kept.insert(kept.end(), tensors.begin(), tensors.end());
        ctx->saved_data[source.name] = tensors.empty() ? value : IValue(static_cast<int64_t>(tensors.size()));
      }
    }
    ctx->save_for_backward(std::move(kept));
    // How many gradients each argument takes.
    std::vector<int64_t> counts;
    for (const auto& argument : arguments) {
      counts.push_back(static_cast<int64_t>(defined(tensors_of(argument)).size()));
    }
    ctx->saved_data["counts"] = counts;

    auto out = tensors_of(outputs);
    ctx->mark_non_differentiable({out.begin() + 1, out.end()});
    ctx->set_materialize_grads(false);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto& plan = *reinterpret_cast<const Plan*>(ctx->saved_data["plan"].toInt());
    const auto counts = ctx->saved_data["counts"].toIntVector();
    const auto& schema = plan.op.schema();
    constexpr size_t kOthers = 3; // arguments of forward behind the tensors
    Stack stack;
    if (grads[0].defined()) {
      fill(ctx, plan, counts, grads[0], stack);
      plan.op.callBoxed(stack);
    }
    variable_list out;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (grads[0].defined() && counts[i] > 0 && plan.results[i] < schema.returns().size()) {
        const auto tensors = tensors_of(stack[plan.results[i]]);
        out.insert(out.end(), tensors.begin(), tensors.end());
      } else {
        out.resize(out.size() + counts[i]);
      }
    }
    out.resize(out.size() + kOthers);
    return out;
  }

 private:
  // The backward operator's arguments.
  static void fill(
      AutogradContext* ctx, const Plan& plan, const std::vector<int64_t>& counts, const Tensor& grad,
      Stack& stack) {
    const auto saved = ctx->get_saved_variables();
    const auto& schema = plan.op.schema();
    auto next = saved.begin();
    for (size_t i = 0; i < plan.arguments.size(); ++i) {
      const auto& [name, from, index] = plan.arguments[i];
      const auto& type = *schema.arguments()[i].type();
      if (from == Plan::From::grad) {
        stack.emplace_back(grad);
      } else if (from == Plan::From::needed) {
        const auto needed = results_needed(ctx, plan, counts);
        stack.push_back(name == "needed" ? IValue(needed) : IValue(needed.get(0)));
      } else if (type.isSubtypeOf(*c10::ListType::ofTensors())) {
        const auto n = ctx->saved_data[name].toInt();
        stack.emplace_back(variable_list(next, next + n));
        next += n;
      } else if (
          type.isSubtypeOf(*c10::TensorType::get()) ||
          type.isSubtypeOf(*c10::OptionalType::ofTensor())) {
        stack.push_back(next->defined() ? IValue(*next) : IValue());
        ++next;
      } else {
        stack.push_back(ctx->saved_data[name]);
      }
    }
  }

  static c10::List<bool> results_needed(
      AutogradContext* ctx, const Plan& plan, const std::vector<int64_t>& counts) {
    std::vector<bool> needed(plan.op.schema().returns().size());
    size_t edge = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0 && plan.results[i] < needed.size()) {
        needed[plan.results[i]] = ctx->needs_input_grad(edge);
      }
      edge += counts[i];
    }
    c10::List<bool> out;
    for (const bool each : needed) {
      out.push_back(each);
    }
    return out;
  }
};

struct InferenceOnly : Function<InferenceOnly> {
  static variable_list forward(
      AutogradContext* ctx, at::TensorList, const c10::OperatorHandle& op, c10::DispatchKeySet keys,
      Stack* stack) {
    ctx->saved_data["name"] = op.schema().name();
    redispatch(op, keys, stack);
    return tensors_of(torch::jit::last(*stack, op.schema().returns().size()));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list&) {
    const auto full = ctx->saved_data["name"].toStringRef(), name = full.substr(full.find("::") + 2);
    TORCH_CHECK(false, name, " is the inference form and has no gradient; train with ", name, "_train");
  }
};

template <class F>
void apply(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const auto inputs = defined(tensors_of(torch::jit::last(*stack, op.schema().arguments().size())));
  auto outputs = F::apply(at::TensorList(inputs), op, keys, stack);
  torch::jit::drop(*stack, outputs.size());
  for (auto& output : outputs) {
    stack->emplace_back(std::move(output));
  }
}

void wire(torch::Library& m, const std::string& name, torch::CppFunction&& kernel) {
  m.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, std::move(kernel)));
}

} // namespace

void differentiable(torch::Library& m, const std::string& name) {
  wire(m, name, torch::CppFunction::makeFromBoxedFunction<&apply<Differentiable>>());
  wire(m, backward_of(name), torch::autograd::autogradNotImplementedFallback());
}

void inference_only(torch::Library& m, const std::string& name) {
  wire(m, name, torch::CppFunction::makeFromBoxedFunction<&apply<InferenceOnly>>());
}

} // namespace supernet
