#include <fmt/format.h>
#include <unroll/graph/tape.h>
#include <unroll/io/tokens.h>
#include <unroll/ops/softmax.h>
#include <unroll/train/evaluation.h>
#include <unroll/train/search.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace unroll {
namespace {

struct Open {
  std::vector<std::int64_t> tokens;
  double log_probability = 0;
};

// One sequence's search.
struct Search {
  std::vector<Open> open{Open{}};
  std::vector<Hypothesis> done;
};

struct Candidate {
  double log_probability;
  std::size_t parent;
  std::int64_t symbol;
};

class BeamSearch {
 public:
  BeamSearch(Seq2Seq& model, const SearchOptions& options) : model_(model), options_(options) {
    if (options.beam < 1) fail("beam_search", fmt::format("a beam of {}", options.beam));
    if (options.max_length < 1)
      fail("beam_search", fmt::format("max_length is {}", options.max_length));
    if (!(options.length_penalty >= 0) || !std::isfinite(options.length_penalty))
      fail("beam_search",
           fmt::format("length_penalty is {}, not 0 or above", options.length_penalty));
  }

  std::vector<std::vector<Hypothesis>> operator()(Decoding at, const Tensor& last) {
    searches_.resize(static_cast<std::size_t>(last.size(0)));
    sources_.resize(searches_.size());
    std::iota(sources_.begin(), sources_.end(), std::size_t{0});
    Tensor read = last;
    for (std::int64_t length = 1; length <= options_.max_length; ++length) {
      const Tensor log_probability =
          log_softmax(model_.step(read, at)).to(DType::f64);  // [all open hypotheses, V]
      rows_ = static_cast<std::size_t>(log_probability.size(0));
      check(log_probability, length);
      advance(log_probability, length);
      if (symbols_.empty()) break;
      if (!in_place())
        at = same_sources() ? model_.reordered(at, parents_) : model_.rows(at, parents_);
      sources_.swap(next_sources_);
      read = Tensor::from(symbols_, {static_cast<std::int64_t>(symbols_.size())});
    }
    std::vector<std::vector<Hypothesis>> results;
    for (Search& one : searches_) results.push_back(finished(one));
    return results;
  }

 private:
  double penalty(std::int64_t length) const {
    return std::pow((5 + static_cast<double>(length)) / 6, options_.length_penalty);
  }

  // A sort of what has no order would take any memory for its own.
  void check(const Tensor& log_probability, std::int64_t step) const {
    const std::int64_t vocabulary = log_probability.size(1);
    if (options_.end < 0 || options_.end >= vocabulary)
      fail("beam_search",
           fmt::format("end is symbol {} of a vocabulary of {}", options_.end, vocabulary));
    for (const double& one : log_probability.data<double>())
      if (std::isnan(one)) {
        const auto row =
            static_cast<std::size_t>((&one - log_probability.ptr<double>()) / vocabulary);
        fail(
            "beam_search",
            fmt::format("the model's scores at step {} are NaN, in row {} of {}", step, row, rows_),
            "Are its weights finite?");
      }
  }

  // All searches by one symbol; parents_ and symbols_ become the open hypotheses' rows and ends.
  void advance(const Tensor& log_probability, std::int64_t length) {
    parents_.clear();
    symbols_.clear();
    next_sources_.clear();
    const std::int64_t vocabulary = log_probability.size(1);
    std::int64_t row = 0;
    for (std::size_t s = 0; s < searches_.size(); ++s) {
      Search& one = searches_[s];
      const std::int64_t first = row;
      row += static_cast<std::int64_t>(one.open.size());
      const auto* values = log_probability.ptr<double>() + first * vocabulary;
      for (const Candidate& next : extend(one, values, vocabulary, length)) {
        parents_.push_back(first + static_cast<std::int64_t>(next.parent));
        symbols_.push_back(next.symbol);
        next_sources_.push_back(s);
      }
    }
  }

  std::vector<Candidate> extend(Search& one, const double* values, std::int64_t vocabulary,
                                std::int64_t length) {
    std::vector<Candidate>& all = candidates_;
    all.clear();
    for (std::size_t i = 0; i < one.open.size(); ++i)
      for (std::int64_t v = 0; v < vocabulary; ++v)
        all.push_back({one.open[i].log_probability + *values++, i, v});
    // As many as there are when every one of the best ends.
    const auto beam = static_cast<std::size_t>(options_.beam);
    const std::size_t enough = std::min(all.size(), beam + one.open.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(enough), all.end(),
                      [](const Candidate& a, const Candidate& b) {
                        return std::tuple(-a.log_probability, a.parent, a.symbol) <
                               std::tuple(-b.log_probability, b.parent, b.symbol);
                      });
    std::vector<Open> open;
    std::vector<Candidate> next;
    for (std::size_t rank = 0; rank < enough && next.size() < beam; ++rank) {
      const Candidate& c = all[rank];
      const std::vector<std::int64_t>& before = one.open[c.parent].tokens;
      if (c.symbol == options_.end) {
        if (rank < beam) one.done.push_back(hypothesis(before, c.log_probability, length, true));
        continue;
      }
      next.push_back(c);
      open.push_back({before, c.log_probability});
      open.back().tokens.push_back(c.symbol);
    }
    one.open = std::move(open);
    const bool stops = length < options_.max_length && over(one);
    if (stops) {
      one.open.clear();
      next.clear();
    }
    return next;
  }

  // Could no open hypothesis still pass what is done? A log probability only falls, and no penalty
  // divides it by more than the longest one's.
  bool over(Search& one) const {
    const auto beam = static_cast<std::size_t>(options_.beam);
    if (one.done.size() < beam || one.open.empty()) return one.open.empty();
    if (beam == 1) return true;
    sort(one.done);
    one.done.resize(beam);
    const double best = one.open.front().log_probability / penalty(options_.max_length);
    return best <= one.done.back().score;
  }

  Hypothesis hypothesis(const std::vector<std::int64_t>& tokens, double log_probability,
                        std::int64_t length, bool finished) const {
    return {tokens, log_probability, log_probability / penalty(length), finished};
  }

  static void sort(std::vector<Hypothesis>& all) {
    std::stable_sort(all.begin(), all.end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  }

  std::vector<Hypothesis> finished(Search& one) const {
    sort(one.done);
    std::vector<Hypothesis> rest;
    for (const Open& open : one.open)
      rest.push_back(hypothesis(open.tokens, open.log_probability, options_.max_length, false));
    sort(rest);
    one.done.insert(one.done.end(), rest.begin(), rest.end());
    if (one.done.size() > static_cast<std::size_t>(options_.beam))
      one.done.resize(static_cast<std::size_t>(options_.beam));
    return std::move(one.done);
  }

  // Do the rows belong to the same sequences as before?
  bool same_sources() const { return sources_ == next_sources_; }

  // Does every sequence go on in its row?
  bool in_place() const {
    for (std::size_t i = 0; i < parents_.size(); ++i)
      if (parents_[i] != static_cast<std::int64_t>(i)) return false;
    return rows_ == parents_.size();
  }

  Seq2Seq& model_;
  const SearchOptions& options_;
  std::vector<Search> searches_;
  std::vector<std::int64_t> parents_, symbols_;
  std::vector<Candidate> candidates_;                // of one sequence; its memory serves the next
  std::vector<std::size_t> sources_, next_sources_;  // which sequence each row belongs to
  std::size_t rows_ = 0;
};

}  // namespace

std::vector<std::vector<Hypothesis>> beam_search(Seq2Seq& model, Decoding at, const Tensor& last,
                                                 const SearchOptions& options) {
  const NoGrad constant;
  return BeamSearch(model, options)(std::move(at), last);
}

std::vector<std::vector<Hypothesis>> translate(Seq2Seq& model, const Tensor& source,
                                               const Tensor& lengths,
                                               const SearchOptions& options) {
  const Evaluation evaluation(model);
  const Tensor first = Tensor::full({source.size(1)}, static_cast<double>(start_token), DType::i64);
  return beam_search(model, model.encode(source, lengths), first, options);
}

}  // namespace unroll
