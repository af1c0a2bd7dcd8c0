#include <unroll/layers/chrono.h>
#include <unroll/layers/sequence_encoder.h>

#include <algorithm>
#include <cmath>

#include "../catch.h"

using namespace unroll;

namespace {

// What gate `gate` of `gates` adds up to in both biases of a layer and direction.
std::vector<double> gate_bias(const Module& layer, const std::string& suffix, std::int64_t gate,
                              std::int64_t gates) {
  const StateDict state = layer.state_dict();
  const Tensor& ih = state.at("bias_ih_" + suffix);
  const Tensor& hh = state.at("bias_hh_" + suffix);
  const std::int64_t hidden = ih.numel() / gates;
  std::vector<double> sums;
  for (std::int64_t i = gate * hidden; i < (gate + 1) * hidden; ++i)
    sums.push_back(static_cast<double>(ih.ptr<float>()[i]) +
                   static_cast<double>(hh.ptr<float>()[i]));
  return sums;
}

}  // namespace

TEST_CASE("chrono_init spreads forgetting times evenly from 1 to the longest", "[layers]") {
  Generator g(1);
  LSTM lstm({.input_size = 2, .hidden_size = 400, .num_layers = 2, .bidirectional = true}, g);
  GRU gru({.input_size = 2, .hidden_size = 400}, g);
  const StateDict before = lstm.state_dict();
  const Tensor outputs = before.at("bias_ih_l0").clone();
  chrono_init(lstm, 784, g);
  chrono_init(gru, 784, g);
  const auto check = [](std::vector<double> remember) {
    std::ranges::transform(remember, remember.begin(), [](double b) { return std::exp(b); });
    std::ranges::sort(remember);
    CHECK(remember.front() >= 1 - 1e-5);
    CHECK(remember.back() <= 783.001);
    // Quantiles of 400 draws from U(1, 783), 4 standard errors wide.
    for (const int quarter : {1, 2, 3})
      CHECK(remember[static_cast<std::size_t>(100 * quarter)] ==
            Approx(1 + 782 * 0.25 * quarter).margin(4 * 782 * 0.5 / 20));
  };
  for (const char* suffix : {"l0", "l0_reverse", "l1", "l1_reverse"}) {
    CAPTURE(suffix);
    const auto forget = gate_bias(lstm, suffix, 1, 4), input = gate_bias(lstm, suffix, 0, 4);
    check(forget);
    for (std::size_t unit = 0; unit < forget.size(); ++unit) CHECK(input[unit] == -forget[unit]);
  }
  check(gate_bias(gru, "l0", 1, 3));
  // g and o stay as they were.
  const Tensor after = lstm.state_dict().at("bias_ih_l0");
  CHECK(
      std::equal(after.ptr<float>() + 800, after.ptr<float>() + 1600, outputs.ptr<float>() + 800));
}

TEST_CASE("chrono_init refuses what has no gates, no biases or no time", "[layers]") {
  RNN rnn({.input_size = 2, .hidden_size = 3});
  LSTM bare({.input_size = 2, .hidden_size = 3, .bias = false});
  LSTM lstm({.input_size = 2, .hidden_size = 3});
  CHECK(has(message_of([&] { chrono_init(rnn, 10); }), "no gates"));
  CHECK(has(message_of([&] { chrono_init(bare, 10); }), "no biases"));
  CHECK(has(message_of([&] { chrono_init(lstm, 2); }), "2 steps"));
}

TEST_CASE("an encoder's recurrent layers take the chrono initialisation", "[layers]") {
  Generator g(1), same(1);
  const SequenceEncoderOptions options{.input_size = 2, .hidden_size = 5, .longest = 50};
  const SequenceEncoder encoder(options, g);
  LSTM lstm({.input_size = 2, .hidden_size = 5, .bidirectional = true, .forget_bias = 1}, same);
  chrono_init(lstm, 50, same);
  for (const auto& [name, value] : lstm.state_dict()) {
    CAPTURE(name);
    CHECK(std::ranges::equal(encoder.state_dict().at("rnn." + name).data<float>(),
                             value.data<float>()));
  }
}
