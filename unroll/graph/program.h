#pragma once

#include <unroll/graph/kernel.h>
#include <unroll/graph/tape.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace unroll {

struct ProgramOptions {
  /// Parameters seldom change from run to run, as when a trained model answers: products lay their
  /// weights out once, and again when a parameter's version has grown, and what parameters alone
  /// decide is computed then.
  bool keep_weights = false;
  /// The last so many inputs are carried: they lie in the program, zeros at first, and behind each
  /// run become the last so many outputs, whose shapes are theirs. A run neither takes nor gives
  /// them. Not for trace_gradient().
  std::size_t carried = 0;
};

/// A function frozen by trace(): its calls in order, each bound to its kernel, in memory planned
/// ahead. A run records nothing, looks nothing up and, but for ops that allocate their results
/// (scan, views, a user's ops), allocates nothing. It gives the bits that recording gave.
class Program {
 public:
  Program(Program&&) noexcept;
  Program& operator=(Program&&) noexcept;
  ~Program();

  /// Runs on inputs like those traced. The outputs are overwritten by a later run unless somebody
  /// holds them. Throws ShapeError for inputs of other shapes or dtypes, Error for one recorded on
  /// the current tape, since no gradient flows through a run, and MemoryError, naming the op, where
  /// memory ends.
  std::span<const Tensor> operator()(std::span<const Tensor> inputs);
  std::span<const Tensor> operator()(std::initializer_list<Tensor> inputs) {
    return (*this)(std::span(inputs.begin(), inputs.size()));
  }

  /// Moves output i of the last run out of the program: the receiver is its only holder.
  Tensor take(std::size_t i);

  /// What carried input i will be in the next run: a handle on the program's memory, to be read or
  /// filled before that.
  Tensor carried(std::size_t i);
  std::size_t carried_count() const;

  /// The parameters it reads, in the order of their first use. Their values are read anew by
  /// every run.
  const std::vector<Parameter>& parameters() const;
  /// Bytes of the memory planned for values that do not leave the program.
  std::size_t planned_bytes() const;
  /// Does a run draw random numbers? It takes them from the generators that f drew from.
  bool draws() const;
  /// How many calls a run makes.
  std::size_t size() const;
  /// The traced calls, for drawing and exporting.
  const Tape& tape() const;

 private:
  friend class ProgramBuilder;
  struct Impl;
  explicit Program(std::unique_ptr<Impl> impl);
  Impl& impl() const;  // Throws Error where it was moved from.
  std::unique_ptr<Impl> impl_;
};

using TraceFunction = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

/// Freezes f for inputs of the shapes and dtypes of `examples`. f runs once, on shapes alone:
/// where data would steer it, where it draws random numbers by itself (dropout and the like draw
/// anew in every run), or where it uses a value of another tape instead of an input, Error says so.
/// Throws Error where f is empty.
Program trace(const TraceFunction& f, std::span<const Tensor> examples,
              const ProgramOptions& options = {}, Where where = Where::current());

/// The same and its walk back in one program: f's outputs, of which the first has one element,
/// then the gradient of that by every parameter, in the order of parameters(). A gradient that does
/// not exist, as that of a frozen parameter, is an undefined tensor.
Program trace_gradient(const TraceFunction& f, std::span<const Tensor> examples,
                       const ProgramOptions& options = {}, Where where = Where::current());

/// The graph in Graphviz's language: `dot -Tsvg`.
std::string to_dot(const Program& program);

}  // namespace unroll
