#include <unroll/graph/tape.h>
#include <unroll/graph/tensor.h>
#include <unroll/ops/arithmetic.h>

#include <cmath>
#include <limits>
#include <string>

#include "../catch.h"

using namespace unroll;

TEST_CASE("a tensor is undefined, abstract or has data") {
  const Tensor nothing;
  CHECK(!nothing.defined());
  CHECK(!nothing.is_abstract());
  const Tensor shape = Tensor::abstract({2, 3}, DType::f64);
  CHECK(shape.defined());
  CHECK(shape.is_abstract());
  CHECK(shape.numel() == 6);
  const Tensor x = Tensor::from({1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, {2, 3});
  CHECK(!x.is_abstract());
  CHECK(x.dtype() == DType::f64);
  CHECK(x.size(-1) == 3);
  CHECK(to_string(x) == "f64 [2, 3]");
}

TEST_CASE("reading a tensor as what it is not is an error") {
  const Tensor x = Tensor::zeros({2});
  CHECK(has(message_of([&] { x.data<double>(); }), "f32"));
  const Tensor nothing, shape = Tensor::abstract({2}, DType::f32);
  CHECK_THROWS_AS(nothing.data<float>(), Error);
  CHECK_THROWS_AS(shape.data<float>(), Error);
  CHECK_THROWS_AS(x.item(), Error);
  CHECK_THROWS_AS(Tensor().item(), Error);
  CHECK_THROWS_AS(Tensor::abstract({}, DType::f32).item(), Error);
  CHECK(Tensor::full({}, 3).item() == 3);
  CHECK(Tensor::from<std::int64_t>({-7}, {1, 1}).item() == -7);
  CHECK_THROWS_AS(Tensor::from({1.0f, 2.0f}, {3}), ShapeError);
}

template <class T>
constexpr bool gives_data = requires {
  std::declval<T>().template data<float>();
};

TEST_CASE("a temporary gives no span of its data, which would outlive it") {
  STATIC_REQUIRE(gives_data<Tensor&>);
  STATIC_REQUIRE(gives_data<const Tensor&>);
  STATIC_REQUIRE(!gives_data<Tensor>);
  STATIC_REQUIRE(!gives_data<const Tensor>);
}

TEST_CASE("handles share a buffer, clones do not") {
  Tensor x = Tensor::full({4}, 1);
  CHECK(x.unique());
  const Tensor same = x, copy = x.clone();
  CHECK(!x.unique());
  CHECK(same.bytes() == x.bytes());
  CHECK(copy.bytes() != x.bytes());
  x.mutable_data<float>()[0] = 5;
  CHECK(same.data<float>()[0] == 5);
  CHECK(copy.data<float>()[0] == 1);
  Tensor moved = std::move(x);
  CHECK(!x.defined());  // NOLINT: a moved tensor is undefined
  CHECK(moved.numel() == 4);
  moved = moved;  // NOLINT: on purpose
  CHECK(moved.data<float>()[0] == 5);
}

TEST_CASE("rows and views share the buffer and know their bounds") {
  const Tensor x = Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {3, 2});
  const Tensor last = x.rows(1, 3), wide = x.viewed({2, 3});
  CHECK(last.data<float>()[0] == 3);
  CHECK(x.rows(1, 1).numel() == 0);
  CHECK(x.row(2).shape() == Shape{2});
  CHECK(x.row(2).bytes() == x.bytes() + 16);
  CHECK(wide.data<float>()[5] == 6);
}

TEST_CASE("dtypes convert") {
  const Tensor x = Tensor::from({1.5, -2.5, 1e300}, {3});
  const Tensor narrow = x.to(DType::f32);
  CHECK(narrow.data<float>()[1] == -2.5f);
  CHECK(std::isinf(narrow.data<float>()[2]));
  CHECK(x.to(DType::f64).bytes() == x.bytes());
  const Tensor whole = Tensor::from<std::int64_t>({3, -4}, {2}).to(DType::f32);
  CHECK(whole.data<float>()[1] == -4);
}

TEST_CASE("empty tensors and scalars") {
  CHECK(Tensor::zeros({0, 5}).numel() == 0);
  CHECK(Tensor::zeros({}).numel() == 1);
  CHECK(Tensor::zeros({}).rank() == 0);
  CHECK_THROWS_AS(Tensor::zeros({-1}), ShapeError);
  CHECK_THROWS_AS(Tensor::zeros({1, 1, 1, 1, 1, 1, 1}), ShapeError);
}

TEST_CASE("detach cuts a value off its tape") {
  Tape tape;
  const Tensor x = tape.watch(Tensor::full({2}, 1));
  CHECK(tape.owns(x));
  CHECK(!tape.owns(x.detach()));
  CHECK(x.detach().bytes() == x.bytes());
}
