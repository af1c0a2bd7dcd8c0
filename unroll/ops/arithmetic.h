#pragma once

#include <unroll/graph/parameter.h>
#include <unroll/graph/tensor.h>

namespace unroll {

// Elementwise ops. Two tensors broadcast as in NumPy; a number is a constant of the same dtype.

Tensor add(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor sub(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor mul(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor div(const Tensor& a, const Tensor& b, Where where = Where::current());
/// a * scale + shift
Tensor affine(const Tensor& a, double scale, double shift, Where where = Where::current());

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator+(const Tensor& a, double b) { return affine(a, 1, b); }
inline Tensor operator+(double a, const Tensor& b) { return affine(b, 1, a); }
inline Tensor operator-(const Tensor& a, double b) { return affine(a, 1, -b); }
inline Tensor operator-(double a, const Tensor& b) { return affine(b, -1, a); }
inline Tensor operator-(const Tensor& a) { return affine(a, -1, 0); }
inline Tensor operator*(const Tensor& a, double b) { return affine(a, b, 0); }
inline Tensor operator*(double a, const Tensor& b) { return affine(b, a, 0); }
inline Tensor operator/(const Tensor& a, double b) { return affine(a, 1 / b, 0); }
Tensor operator/(double a, const Tensor& b);

Tensor exp(const Tensor& x, Where where = Where::current());
Tensor log(const Tensor& x, Where where = Where::current());
Tensor sqrt(const Tensor& x, Where where = Where::current());
Tensor square(const Tensor& x, Where where = Where::current());
Tensor abs(const Tensor& x, Where where = Where::current());
Tensor pow(const Tensor& x, double exponent, Where where = Where::current());
Tensor pow(const Tensor& x, const Tensor& exponent, Where where = Where::current());
Tensor tanh(const Tensor& x, Where where = Where::current());
Tensor sigmoid(const Tensor& x, Where where = Where::current());
Tensor relu(const Tensor& x, Where where = Where::current());
/// x Phi(x) with the error function, not the tanh approximation (Hendrycks, Gimpel 2016).
Tensor gelu(const Tensor& x, Where where = Where::current());
/// x sigmoid(x)
Tensor silu(const Tensor& x, Where where = Where::current());
/// log(1 + e^x)
Tensor softplus(const Tensor& x, Where where = Where::current());
Tensor clamp(const Tensor& x, double low, double high, Where where = Where::current());
Tensor maximum(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor minimum(const Tensor& a, const Tensor& b, Where where = Where::current());

// Comparisons give masks: 1 where it holds, 0 elsewhere, of the dtype of a; no gradient.
Tensor greater(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor greater(const Tensor& a, double b, Where where = Where::current());
Tensor less(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor less(const Tensor& a, double b, Where where = Where::current());
Tensor equal(const Tensor& a, const Tensor& b, Where where = Where::current());
Tensor equal(const Tensor& a, double b, Where where = Where::current());
/// a where mask is not 0, b elsewhere. The gradient goes where the value came from.
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b, Where caller = Where::current());

/// Sums `x` to `shape`, to which x's shape broadcasts from: the vjp of broadcasting.
Tensor sum_to(const Tensor& x, const Shape& shape, Where where = Where::current());

}  // namespace unroll
