#pragma once

#include <unroll/ops/simd.h>

#include <array>
#include <bit>
#include <cstddef>
#include <numbers>
#include <tuple>
#include <utility>

namespace unroll::simd {

/// A value with its partial derivatives by some of a function's arguments. Mask says at compile
/// time by which: bit i is set where the value depends on argument i, so that a value costs no
/// more derivatives than it has. V is Lanes, or Dual again for second derivatives.
template <class V, unsigned Mask>
struct Dual {
  static constexpr int size = std::popcount(Mask);

  V v;
  std::array<V, size> d{};

  /// The place in `d` of the derivative by argument i.
  static constexpr int place(int i) { return std::popcount(Mask & ((1u << i) - 1u)); }
};

template <class X>
inline constexpr bool is_dual = false;
template <class V, unsigned M>
inline constexpr bool is_dual<Dual<V, M>> = true;

template <class X>
concept AnyDual = is_dual<std::remove_cvref_t<X>>;

/// x, whose value and derivative by itself are given, by the chain rule.
template <class V, unsigned M>
Dual<V, M> chain(const Dual<V, M>& x, const V& value, const V& derivative) {
  Dual<V, M> result{value, {}};
  for (int k = 0; k < Dual<V, M>::size; ++k) result.d[k] = x.d[k] * derivative;
  return result;
}

/// The same for two: value, and the derivatives da by a and db by b.
template <class V, unsigned A, unsigned B>
Dual<V, A | B> chain(const Dual<V, A>& a, const Dual<V, B>& b, const V& value, const V& da,
                     const V& db) {
  using Result = Dual<V, A | B>;
  Result result{value, {}};
  [&]<int... I>(std::integer_sequence<int, I...>) {
    const auto one = [&]<int i>(std::integral_constant<int, i>) {
      constexpr bool in_a = ((A >> i) & 1u) != 0, in_b = ((B >> i) & 1u) != 0;
      if constexpr (in_a && in_b) {
        result.d[Result::place(i)] =
            a.d[Dual<V, A>::place(i)] * da + b.d[Dual<V, B>::place(i)] * db;
      } else if constexpr (in_a) {
        result.d[Result::place(i)] = a.d[Dual<V, A>::place(i)] * da;
      } else if constexpr (in_b) {
        result.d[Result::place(i)] = b.d[Dual<V, B>::place(i)] * db;
      }
    };
    (one(std::integral_constant<int, I>()), ...);
  }
  (std::make_integer_sequence<int, std::bit_width(A | B)>());
  return result;
}

template <class V, unsigned A, unsigned B>
Dual<V, A | B> operator+(const Dual<V, A>& a, const Dual<V, B>& b) {
  return chain(a, b, V(a.v + b.v), V{1}, V{1});
}
template <class V, unsigned A, unsigned B>
Dual<V, A | B> operator-(const Dual<V, A>& a, const Dual<V, B>& b) {
  return chain(a, b, V(a.v - b.v), V{1}, V{-1});
}
template <class V, unsigned A, unsigned B>
Dual<V, A | B> operator*(const Dual<V, A>& a, const Dual<V, B>& b) {
  return chain(a, b, V(a.v * b.v), b.v, a.v);
}
template <class V, unsigned A, unsigned B>
Dual<V, A | B> operator/(const Dual<V, A>& a, const Dual<V, B>& b) {
  const V inverse = V{1} / b.v;
  const V value = a.v * inverse;
  return chain(a, b, value, inverse, V(-(value * inverse)));
}
template <class V, unsigned A>
Dual<V, A> operator-(const Dual<V, A>& a) {
  return chain(a, V(-a.v), V{-1});
}

// With constants: numbers, and values that depend on no argument.
template <class C, class V>
concept ConstantFor = Number<C> || std::is_same_v<C, V>;

template <class V, class C>
V constant(const C& c) {
  if constexpr (is_dual<V> && Number<C>) {
    return {constant<decltype(V::v)>(c), {}};
  } else {
    return V(c);
  }
}

template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator+(const Dual<V, A>& a, const C& c) {
  return {a.v + constant<V>(c), a.d};
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator+(const C& c, const Dual<V, A>& a) {
  return {a.v + constant<V>(c), a.d};
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator-(const Dual<V, A>& a, const C& c) {
  return {a.v - constant<V>(c), a.d};
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator-(const C& c, const Dual<V, A>& a) {
  return chain(a, V(constant<V>(c) - a.v), V{-1});
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator*(const Dual<V, A>& a, const C& c) {
  return chain(a, V(a.v * constant<V>(c)), constant<V>(c));
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator*(const C& c, const Dual<V, A>& a) {
  return a * c;
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator/(const Dual<V, A>& a, const C& c) {
  return a * (V{1} / constant<V>(c));
}
template <class V, unsigned A, ConstantFor<V> C>
Dual<V, A> operator/(const C& c, const Dual<V, A>& a) {
  const V value = constant<V>(c) / a.v;
  return chain(a, value, V(-(value / a.v)));
}

/// What a comparison looks at.
template <class X>
const X& value_of(const X& x) {
  return x;
}
template <class V, unsigned A>
const auto& value_of(const Dual<V, A>& x) {
  return value_of(x.v);
}

template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto operator<(const A& a, const B& b) {
  return value_of(a) < value_of(b);
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto operator>(const A& a, const B& b) {
  return value_of(a) > value_of(b);
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto operator<=(const A& a, const B& b) {
  return value_of(a) <= value_of(b);
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto operator>=(const A& a, const B& b) {
  return value_of(a) >= value_of(b);
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto operator==(const A& a, const B& b) {
  return value_of(a) == value_of(b);
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto operator!=(const A& a, const B& b) {
  return value_of(a) != value_of(b);
}

/// x as a Dual of another mask that contains its own: the missing derivatives are zero.
template <class D, class X>
D promote(const X& x) {
  if constexpr (std::is_same_v<D, X>) {
    return x;
  } else if constexpr (!AnyDual<X>) {
    if constexpr (AnyDual<D>) {
      return D{promote<decltype(D::v)>(x), {}};
    } else {
      return D(x);
    }
  } else {
    return
        [&]<class V, unsigned A, class W, unsigned B>(const Dual<V, A>& from, const Dual<W, B>*) {
          Dual<W, B> result{promote<W>(from.v), {}};
          for (int i = 0; i < 32; ++i)
            if ((A >> i) & 1u)
              result.d[Dual<W, B>::place(i)] = promote<W>(from.d[Dual<V, A>::place(i)]);
          return result;
        }(x, static_cast<const D*>(nullptr));
  }
}

/// The type that all of some values can be promoted to.
template <class... X>
struct Common;
template <class A>
struct Common<A> {
  using type = A;
};
template <class A>
struct Common<A, A> {
  using type = A;
};
template <class V, Number C>
struct Common<V, C> {
  using type = V;
};
template <class V, unsigned A, unsigned B>
requires(A != B) struct Common<Dual<V, A>, Dual<V, B>> {
  using type = Dual<V, A | B>;
};
template <class V, unsigned A>
struct Common<Dual<V, A>, V> {
  using type = Dual<V, A>;
};
template <class V, unsigned A>
struct Common<V, Dual<V, A>> {
  using type = Dual<V, A>;
};
template <class A, class B, class C, class... Rest>
struct Common<A, B, C, Rest...> {
  using type = typename Common<typename Common<A, B>::type, C, Rest...>::type;
};
template <class... X>
using CommonType = typename Common<std::remove_cvref_t<X>...>::type;

template <class M, class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto where(const M& mask, const A& a, const B& b) {
  using R = std::conditional_t<Number<A>, B, std::conditional_t<Number<B>, A, A>>;
  using D =
      typename Common<R,
                      std::conditional_t<Number<B>, R, std::conditional_t<Number<A>, R, B>>>::type;
  const D x = promote<D>(a), y = promote<D>(b);
  D result{where(mask, x.v, y.v), {}};
  for (int k = 0; k < D::size; ++k) result.d[k] = where(mask, x.d[k], y.d[k]);
  return result;
}
template <class T, Number C>
Lanes<T> where(LaneMask<T> mask, Lanes<T> a, C b) {
  return where<T>(mask, a, Lanes<T>(b));
}
template <class T, Number C>
Lanes<T> where(LaneMask<T> mask, C a, Lanes<T> b) {
  return where<T>(mask, Lanes<T>(a), b);
}

template <class V, unsigned A>
Dual<V, A> exp(const Dual<V, A>& x) {
  const V y = exp(x.v);
  return chain(x, y, y);
}
template <class V, unsigned A>
Dual<V, A> log(const Dual<V, A>& x) {
  return chain(x, V(log(x.v)), V(V{1} / x.v));
}
template <class V, unsigned A>
Dual<V, A> log1p(const Dual<V, A>& x) {
  return chain(x, V(log1p(x.v)), V(V{1} / (V{1} + x.v)));
}
template <class V, unsigned A>
Dual<V, A> sqrt(const Dual<V, A>& x) {
  const V y = sqrt(x.v);
  return chain(x, y, V(V{0.5} / y));
}
template <class V, unsigned A>
Dual<V, A> sin(const Dual<V, A>& x) {
  return chain(x, V(sin(x.v)), V(cos(x.v)));
}
template <class V, unsigned A>
Dual<V, A> cos(const Dual<V, A>& x) {
  return chain(x, V(cos(x.v)), V(-sin(x.v)));
}
template <class V, unsigned A>
Dual<V, A> tanh(const Dual<V, A>& x) {
  const V y = tanh(x.v);
  return chain(x, y, V(V{1} - y * y));
}
template <class V, unsigned A>
Dual<V, A> sigmoid(const Dual<V, A>& x) {
  const V y = sigmoid(x.v);
  return chain(x, y, V(y * (V{1} - y)));
}
template <class V, unsigned A>
Dual<V, A> erf(const Dual<V, A>& x) {
  return chain(x, V(erf(x.v)),
               V(constant<V>(2.0 * std::numbers::inv_sqrtpi) * exp(V(-(x.v * x.v)))));
}
template <class V, unsigned A>
Dual<V, A> abs(const Dual<V, A>& x) {
  return where(x < 0.0, -x, where(x > 0.0, x, x * 0.0));
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto maximum(const A& a, const B& b) {
  return where(a < b, b, a);
}
template <class A, class B>
requires(AnyDual<A> || AnyDual<B>) auto minimum(const A& a, const B& b) {
  return where(b < a, b, a);
}

// Composed from the above, for Lanes and Dual alike.
template <class X>
auto relu(const X& x) {
  return where(x <= X{}, X{}, x);
}
template <class X>
auto silu(const X& x) {
  return x * sigmoid(x);
}
template <class X>
auto gelu(const X& x) {
  return x * 0.5 * (erf(x * std::numbers::sqrt2 * 0.5) + 1.0);
}
template <class X>
auto softplus(const X& x) {
  return relu(x) + log1p(exp(-abs(x)));
}

}  // namespace unroll::simd
