#pragma once

// Highway's vectors as plain values with operators, so that a generic lambda reads as arithmetic.
// Compiled for one processor family (UNROLL_ARCH); graph/cpu.cpp checks it at start.
#ifndef HWY_COMPILE_ONLY_STATIC
#define HWY_COMPILE_ONLY_STATIC
#endif
#include <hwy/highway.h>
// Highway's own headers go behind highway.h.
#include <hwy/contrib/math/math-inl.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

// Inlines all that a kernel calls: a vector handed to a function out of line goes through memory.
// With the sanitizers' checks in every call that would take minutes a file, for no use.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL_FLATTEN
#else
#define UNROLL_FLATTEN [[gnu::flatten]]
#endif

namespace unroll::simd {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Tag = hn::ScalableTag<T>;

template <class X>
concept Number = std::is_arithmetic_v<X>;

/// As many T as a vector register holds.
template <class T>
struct Lanes {
  hn::Vec<Tag<T>> v;

  static constexpr std::size_t count = hn::MaxLanes(Tag<T>());

  Lanes() : v(hn::Zero(Tag<T>())) {}
  Lanes(hn::Vec<Tag<T>> vector) : v(vector) {}  // NOLINT: meant to convert
  template <Number X>
  Lanes(X x) : v(hn::Set(Tag<T>(), static_cast<T>(x))) {}  // NOLINT: meant to convert

  static Lanes load(const T* p) { return hn::LoadU(Tag<T>(), p); }
  static Lanes load_first(const T* p, std::size_t n) {
    return hn::MaskedLoad(hn::FirstN(Tag<T>(), n), Tag<T>(), p);
  }
  void store(T* p) const { hn::StoreU(v, Tag<T>(), p); }
  void store_first(T* p, std::size_t n) const {
    hn::BlendedStore(v, hn::FirstN(Tag<T>(), n), Tag<T>(), p);
  }

  friend Lanes operator+(Lanes a, Lanes b) { return hn::Add(a.v, b.v); }
  friend Lanes operator-(Lanes a, Lanes b) { return hn::Sub(a.v, b.v); }
  friend Lanes operator*(Lanes a, Lanes b) { return hn::Mul(a.v, b.v); }
  friend Lanes operator/(Lanes a, Lanes b) { return hn::Div(a.v, b.v); }
  friend Lanes operator-(Lanes a) { return hn::Neg(a.v); }
  friend auto operator<(Lanes a, Lanes b) { return hn::Lt(a.v, b.v); }
  friend auto operator>(Lanes a, Lanes b) { return hn::Gt(a.v, b.v); }
  friend auto operator<=(Lanes a, Lanes b) { return hn::Le(a.v, b.v); }
  friend auto operator>=(Lanes a, Lanes b) { return hn::Ge(a.v, b.v); }
  friend auto operator==(Lanes a, Lanes b) { return hn::Eq(a.v, b.v); }
  friend auto operator!=(Lanes a, Lanes b) { return hn::Ne(a.v, b.v); }
};

template <class T>
using LaneMask = decltype(Lanes<T>() < Lanes<T>());

template <class T>
Lanes<T> where(LaneMask<T> mask, Lanes<T> a, Lanes<T> b) {
  return hn::IfThenElse(mask, a.v, b.v);
}

// Highway's exp, log and log1p are made for finite arguments whose result is finite: what lies
// outside is decided here. An infinity must not turn into a number, nor a NaN.
template <class T>
Lanes<T> exp(Lanes<T> x) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  if constexpr (std::is_same_v<T, double>) {
    return where<T>(x <= Lanes<T>(709.78), Lanes<T>(hn::Exp(Tag<T>(), x.v)),
                    x * Lanes<T>(infinity));
  } else {
    // e^x = 2^n e^r. Adding 1.5 * 2^23 rounds x / log 2 to n, which then stands in the low bits and
    // is added to the exponent of e^r; that cannot overflow as long as e^x does not. What would be
    // denormal is 0. Half the work of Highway's.
    const Lanes<T> magic(0x1.8p23);
    const Lanes<T> shifted = hn::MulAdd(x.v, Lanes<T>(1.44269504f).v, magic.v);
    const Lanes<T> n = shifted - magic;
    Lanes<T> r = hn::NegMulAdd(n.v, Lanes<T>(0.693359375f).v, x.v);  // log 2 in two parts
    r = hn::NegMulAdd(n.v, Lanes<T>(-2.12194440e-4f).v, r.v);
    // Interpolates e^r at Chebyshev's points.
    Lanes<T> p(0.00139411084f);
    for (float c : {0.0083751264f, 0.0416663529f, 0.166664155f, 0.500000005f, 1.00000004f, 1.0f})
      p = hn::MulAdd(p.v, r.v, Lanes<T>(c).v);
    const hn::RebindToSigned<Tag<T>> bits;
    const Lanes<T> y = hn::BitCast(
        Tag<T>(), hn::Add(hn::BitCast(bits, p.v), hn::ShiftLeft<23>(hn::BitCast(bits, shifted.v))));
    const Lanes<T> upper = where<T>(x <= Lanes<T>(88.72), y, x * Lanes<T>(infinity));
    return hn::IfThenZeroElse((x < Lanes<T>(-87.33)), upper.v);
  }
}
// f(x) where `low` < x < infinity; -infinity at `low`, NaN below it.
template <class T>
Lanes<T> log_or_special(Lanes<T> x, T low, Lanes<T> f) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const Lanes<T> edge = where<T>(x == Lanes<T>(low), Lanes<T>(-infinity),
                                 Lanes<T>(std::numeric_limits<T>::quiet_NaN()));
  return where<T>(x > Lanes<T>(low), where<T>(x < Lanes<T>(infinity), f, x), edge);
}
template <class T>
Lanes<T> log(Lanes<T> x) {
  return log_or_special<T>(x, T(0), hn::Log(Tag<T>(), x.v));
}
template <class T>
Lanes<T> log1p(Lanes<T> x) {
  return log_or_special<T>(x, T(-1), hn::Log1p(Tag<T>(), x.v));
}
template <class T>
Lanes<T> sqrt(Lanes<T> x) {
  return hn::Sqrt(x.v);
}
template <class T>
Lanes<T> abs(Lanes<T> x) {
  return hn::Abs(x.v);
}
template <class T>
Lanes<T> sin(Lanes<T> x) {
  return hn::Sin(Tag<T>(), x.v);
}
template <class T>
Lanes<T> cos(Lanes<T> x) {
  return hn::Cos(Tag<T>(), x.v);
}
// NaN where either is.
template <class T>
Lanes<T> maximum(Lanes<T> a, Lanes<T> b) {
  return where<T>(hn::IsNaN(a.v), a, Lanes<T>(hn::Max(a.v, b.v)));
}
template <class T>
Lanes<T> minimum(Lanes<T> a, Lanes<T> b) {
  return where<T>(hn::IsNaN(a.v), a, Lanes<T>(hn::Min(a.v, b.v)));
}

template <class T, Number C>
Lanes<T> maximum(Lanes<T> a, C b) {
  return maximum(a, Lanes<T>(b));
}
template <class T, Number C>
Lanes<T> minimum(Lanes<T> a, C b) {
  return minimum(a, Lanes<T>(b));
}

template <class T>
Lanes<T> sigmoid(Lanes<T> x) {
  return Lanes<T>(1) / (Lanes<T>(1) + exp(-x));
}

template <class T>
Lanes<T> tanh(Lanes<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return hn::Tanh(Tag<T>(), x.v);
  } else {
    // (1 - e) / (1 + e) with e = exp(-2|x|), and near 0, where that cancels, the odd Taylor
    // polynomial: below 0.5 its remainder is under a float's last place.
    const Lanes<T> a = abs(x);
    const Lanes<T> e = exp(a * Lanes<T>(-2));
    const Lanes<T> large = (Lanes<T>(1) - e) / (Lanes<T>(1) + e);
    const Lanes<T> s = a * a;
    Lanes<T> p(21844.0 / 6081075.0);
    for (double c : {-1382.0 / 155925.0, 62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0})
      p = p * s + Lanes<T>(c);
    const Lanes<T> small = a + a * s * p;
    return hn::CopySign(where<T>(a < Lanes<T>(0.4), small, large).v, x.v);
  }
}

template <class T>
Lanes<T> erf(Lanes<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    // f64 is for checking gradients: exactness matters there, speed does not.
    T values[Lanes<T>::count];
    x.store(values);
    for (T& value : values) value = std::erf(value);
    return Lanes<T>::load(values);
  } else {
    // x P(x^2) / Q(x^2), minimax on [-4, 4]. From `one` on a float's erf is 1, and so exactly: 1 +
    // erf is to vanish however far below zero x is.
    const Lanes<T> one(3.832506856900711);
    const Lanes<T> s = x * x;
    Lanes<T> p(-2.72614225801306e-10);
    for (double k : {2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
                     -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02})
      p = p * s + Lanes<T>(k);
    Lanes<T> q(-1.45660718464996e-05);
    for (double k : {-2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
                     -1.42647390514189e-02})
      q = q * s + Lanes<T>(k);
    Lanes<T> y;
    if constexpr (sizeof(x) == 64) {
      // Dividing takes as long as all of the rest. 14 bits of the inverse, a step of Newton's.
      const Lanes<T> r = hn::ApproximateReciprocal(q.v);
      y = x * p * Lanes<T>(hn::MulAdd(r.v, hn::NegMulAdd(q.v, r.v, Lanes<T>(1).v), r.v));
    } else {
      y = x * p / q;
    }
    return where<T>(abs(x) >= one, Lanes<T>(hn::CopySign(Lanes<T>(1).v, x.v)), y);
  }
}

}  // namespace unroll::simd
