// Where two descriptions differ, in as many words as one reads.

#include <unroll/train/first_difference.h>

#include <nlohmann/json.hpp>

#include "../catch.h"

using namespace unroll;
using Json = nlohmann::json;

TEST_CASE("the first difference of two descriptions is short, and the difference") {
  const auto apart = [](const Json& a, const Json& b) {
    return first_difference(a.dump(), b.dump());
  };
  CHECK(apart({{"hidden", 8}, {"layers", 1}}, {{"hidden", 9}, {"layers", 2}}) ==
        "hidden is 8 there and 9 here");
  CHECK(apart({{"a", {{"b", 1}}}}, {{"a", {{"b", 2}}}}) == "a.b is 1 there and 2 here");
  CHECK(apart({{"a", 1}}, Json::object()) == "a is 1 there and missing here");
  CHECK(apart({{"a", 1}}, {{"a", 1}}).empty());

  std::vector<int> many(1000, 7), other = many;
  other[600] = 8;
  CHECK(apart({{"tokens", many}}, {{"tokens", other}}) == "tokens[600] is 7 there and 8 here");
  other = many;
  other.pop_back();
  CHECK(apart({{"tokens", many}}, {{"tokens", other}}) ==
        "tokens has 1000 elements there and 999 here");
  CHECK(apart({{"tokens", many}}, Json::object()).size() < 100);

  // Of a long text the part that differs, in whole characters.
  std::string text, changed;
  for (int i = 0; i < 300; ++i) text += "ü";
  for (int i = 0; i < 300; ++i) changed += i == 200 ? "x" : "ü";
  const std::string told = apart({{"characters", text}}, {{"characters", changed}});
  CAPTURE(told);
  CHECK(told.size() < 200);
  CHECK(told.find('x') != std::string::npos);
  CHECK_NOTHROW(Json(told).dump());  // UTF-8
  CHECK(apart({{"a", text}}, {{"a", text + "y"}}).find('y') != std::string::npos);
}
