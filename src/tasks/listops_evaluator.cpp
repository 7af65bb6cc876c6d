// The second reading of the rule: from right to left, so that an operator meets all its arguments on the stack.
#include <algorithm>
#include <numeric>

#include "tasks/listops_generator.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr int closing_mark = -1;

/// Takes the arguments of an operator and their closing mark from the stack and puts its value there.
void reduce(std::uint8_t token, std::size_t at, std::vector<int>& stack) {
  const auto mark = std::find(stack.rbegin(), stack.rend(), closing_mark);
  const auto count = mark - stack.rbegin();
  if (mark == stack.rend() || count == 0) {
    throw_error(ExitCode::bad_data, "listops: the operator at token {} must have arguments and a closing mark",
                at);
  }
  std::vector<int> values(stack.end() - count, stack.end());
  stack.resize(stack.size() - static_cast<std::size_t>(count) - 1);
  int value = 0;
  switch (token) {
    case listops_min:
      value = *std::min_element(values.begin(), values.end());
      break;
    case listops_max:
      value = *std::max_element(values.begin(), values.end());
      break;
    case listops_sm:
      value = std::accumulate(values.begin(), values.end(), 0) % 10;
      break;
    default: {
      const auto upper = values.begin() + count / 2, lower = values.begin() + (count - 1) / 2;
      std::nth_element(values.begin(), lower, values.end());
      const int below = *lower;
      std::nth_element(values.begin(), upper, values.end());
      value = (below + *upper) / 2;
    }
  }
  stack.push_back(value);
}

}  // namespace

int evaluate_listops(std::span<const std::uint8_t> tokens) {
  std::vector<int> stack;
  for (std::size_t i = tokens.size(); i-- > 0;) {
    const std::uint8_t token = tokens[i];
    if (token < listops_digit || token > listops_close) {
      throw_error(ExitCode::bad_data, "listops: token {} must have an id in 1 ... 15, got {}", i, int{token});
    }
    if (token == listops_close) {
      stack.push_back(closing_mark);
    } else if (token < listops_min) {
      stack.push_back(token - listops_digit);
    } else {
      reduce(token, i, stack);
    }
  }
  if (stack.size() != 1 || stack[0] == closing_mark) {
    throw_error(ExitCode::bad_data, "listops: {} tokens must form one tree, got {} pieces", tokens.size(),
                stack.size());
  }
  return stack[0];
}

}  // namespace tern::tasks
