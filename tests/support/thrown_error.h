// The error that a call throws, so that tests can look at its code and text.
#pragma once

#include <stdexcept>

#include "tern/error.h"

namespace tern::test {

template <class Call>
Error thrown_error(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  throw std::runtime_error("the call must throw a tern::Error, but it returned");
}

inline bool mentions(const Error& error, std::string_view text) {
  return std::string_view(error.what()).find(text) != std::string_view::npos;
}

}  // namespace tern::test
