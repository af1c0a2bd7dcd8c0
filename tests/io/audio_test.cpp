#include <unroll/graph/generator.h>
#include <unroll/io/audio.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "../catch.h"
#include "files.h"

using namespace unroll;

namespace {

std::string little(std::uint32_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

// A WAV of 16-bit samples, channel by channel in turn.
std::string wav(const std::vector<std::int16_t>& samples, std::uint32_t channels,
                std::uint32_t rate) {
  const auto bytes = static_cast<std::uint32_t>(2 * samples.size());
  std::string text = "RIFF" + little(36 + bytes, 4) + "WAVEfmt " + little(16, 4) + little(1, 2) +
                     little(channels, 2) + little(rate, 4) + little(2 * channels * rate, 4) +
                     little(2 * channels, 2) + little(16, 2) + "data" + little(bytes, 4);
  for (const std::int16_t one : samples) text += little(static_cast<std::uint16_t>(one), 2);
  return text;
}

std::vector<float> tone(double hertz, double amplitude, std::size_t samples, double rate) {
  std::vector<float> result(samples);
  for (std::size_t i = 0; i < samples; ++i)
    result[i] = static_cast<float>(
        amplitude * std::sin(2 * std::numbers::pi * hertz * static_cast<double>(i) / rate));
  return result;
}

}  // namespace

TEST_CASE("read_audio reads samples, rate and channels", "[io]") {
  const TemporaryDirectory directory;
  const Recording mono =
      read_audio(write_plainly(directory / "a.wav", wav({0, 16384, -32768, 8192}, 1, 8000)));
  CHECK(mono.rate == 8000);
  CHECK(mono.samples == std::vector<float>{0, 0.5, -1, 0.25});
  CHECK(mono.seconds() == Approx(0.0005));
  const Recording stereo =
      read_audio(write_plainly(directory / "b.wav", wav({0, 16384, -32768, 0}, 2, 16000)));
  CHECK(stereo.samples == std::vector<float>{0.25, -0.5});
}

TEST_CASE("read_audio refuses what is no sound", "[io]") {
  const TemporaryDirectory directory;
  const auto refusal = [&](const char* name) {
    return message_of<DataError>([&] { read_audio(directory / name); });
  };
  write_plainly(directory / "text.wav", "ten bytes!");
  write_plainly(directory / "empty.wav", "");
  write_plainly(directory / "silent.wav", wav({}, 1, 8000));
  CHECK(has(refusal("none.wav"), "none.wav"));
  CHECK(has(refusal("text.wav"), "text.wav"));
  CHECK(has(refusal("empty.wav"), "empty.wav"));
  CHECK(has(refusal("silent.wav"), "no sound"));
}

TEST_CASE("the spectrum keeps the energy (Parseval)", "[io]") {
  LogMel features;
  Generator g(1);
  const Tensor noise = g.normal({256}, 0, 1);
  double energy = 0, powers = 0;
  for (const float v : noise.data<float>()) energy += static_cast<double>(v) * v;
  const std::span<const float> spectrum = features.power(noise.data<float>());
  REQUIRE(spectrum.size() == 129);
  // All frequencies but 0 and the highest stand for two.
  for (std::size_t k = 0; k < spectrum.size(); ++k)
    powers += (k == 0 || k == 128 ? 1 : 2) * static_cast<double>(spectrum[k]);
  CHECK(powers == Approx(energy).epsilon(1e-5));
}

TEST_CASE("a spectrum by its definition", "[io]") {
  LogMel features({.window = 12, .hop = 4, .fft = 16, .bands = 2});
  Generator g(2);
  const Tensor x = g.normal({12}, 0, 1);
  const std::span<const float> found = features.power(x.data<float>());
  for (std::size_t k = 0; k <= 8; ++k) {
    double real = 0, imaginary = 0;
    for (std::size_t n = 0; n < 12; ++n) {
      const double angle = 2 * std::numbers::pi * static_cast<double>(k * n) / 16;
      real += x.data<float>()[n] * std::cos(angle);
      imaginary -= x.data<float>()[n] * std::sin(angle);
    }
    CHECK(found[k] == Approx((real * real + imaginary * imaginary) / 16).margin(1e-5));
  }
}

TEST_CASE("a tone lands in its mel band, its amplitude in the logarithm", "[io]") {
  LogMel features;
  CHECK(mel_of_hertz(1000) == Approx(1000).epsilon(1e-4));  // where the scale is pinned
  CHECK(hertz_of_mel(mel_of_hertz(440)) == Approx(440));
  for (const std::int64_t band : {5, 12, 20, 30, 38}) {
    const double hertz = features.center(band);
    const Tensor loud = features(tone(hertz, 0.5, 1000, 8000));
    const Tensor soft = features(tone(hertz, 0.05, 1000, 8000));
    REQUIRE(loud.shape() == Shape{11, 40});
    for (std::int64_t t = 0; t < 11; ++t) {
      const float* row = loud.ptr<float>() + t * 40;
      // A spectrum has lines 31 Hz apart, low bands are hardly wider: a neighbour may be as loud.
      CHECK(std::abs(std::max_element(row, row + 40) - row - band) <= (band < 12 ? 1 : 0));
      CHECK(row[band] - soft.ptr<float>()[t * 40 + band] ==
            Approx(2 * std::log(10.0)).epsilon(1e-3));
    }
  }
  // Silence is the floor.
  const Tensor silence = features(std::vector<float>(300));
  CHECK(silence.size(0) == 2);
  for (const float v : silence.data<float>()) CHECK(v == Approx(std::log(1e-10)));
}

TEST_CASE("frames are the stream's, one after the other", "[io]") {
  LogMel features;
  Generator g(3);
  const Tensor noise = g.normal({1000}, 0, 0.1);
  const std::span<const float> samples = noise.data<float>();
  const Tensor whole = features(samples);
  std::vector<float> one(40);
  for (std::size_t t = 0; t < 11; ++t) {
    features.frame(samples.subspan(t * 80, 200), one);
    CHECK(std::ranges::equal(one, whole.data<float>().subspan(t * 40, 40)));
  }
  CHECK(features(samples.first(279)).size(0) == 1);
  CHECK(features(samples.first(280)).size(0) == 2);
  CHECK(features(samples.first(10)).size(0) == 1);
}

TEST_CASE("features of sizes that make no sense are refused", "[io]") {
  CHECK(has(message_of([] { LogMel({.fft = 128}); }), "window 200, hop 80, fft 128"));
  CHECK(has(message_of([] { LogMel({.fft = 255}); }), "even"));
  CHECK(has(message_of([] { LogMel({.high = 5000}); }), "5000"));
  CHECK(has(message_of([] { LogMel({.bands = 120}); }), "holds no frequency"));
  LogMel features;
  std::vector<float> few(10), bands(40);
  CHECK(has(message_of([&] { features.frame(few, bands); }), "10 samples into 40 bands"));
}

TEST_CASE("a spoken digit as it was recorded", "[io]") {
  const auto path = external_data("fsdd/7_jackson_0.wav");
  if (path.empty()) {
    WARN("skipped: fsdd is not in $UNROLL_DATA");
    return;
  }
  const Recording digit = read_audio(path);
  CHECK(digit.rate == 8000);
  CHECK(digit.seconds() > 0.1);
  LogMel features;
  CHECK(features(digit.samples).size(0) == 1 + (std::ssize(digit.samples) - 200) / 80);
}
