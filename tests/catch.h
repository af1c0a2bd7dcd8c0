#pragma once

// Catch2 2 has one header, Catch2 3 many.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif

#include <unroll/graph/error.h>

#include <string>
#include <string_view>

/// The message of the E that f throws; another exception passes, none gives "nothing thrown".
template <class E = unroll::Error, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing thrown";
}

inline bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}
