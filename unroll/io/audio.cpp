#include <fmt/format.h>
#include <kiss_fftr.h>
#include <sndfile.h>
#include <unroll/io/audio.h>
#include <unroll/io/fail_data.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace unroll {
namespace {

struct CloseSound {
  void operator()(SNDFILE* file) const { sf_close(file); }
};
struct FreeTransform {
  void operator()(kiss_fftr_state* state) const { kiss_fftr_free(state); }
};

// A triangle over the spectrum: weights of the powers from `first` on.
struct Band {
  std::int64_t first = 0;
  std::vector<float> weights{};
};

}  // namespace

Recording read_audio(const std::filesystem::path& path) {
  SF_INFO info{};
  const std::unique_ptr<SNDFILE, CloseSound> file(sf_open(path.c_str(), SFM_READ, &info));
  if (file == nullptr)
    fail_data("read_audio", fmt::format("'{}': {}", path.string(), sf_strerror(nullptr)));
  if (info.frames < 1 || info.channels < 1 || info.samplerate < 1)
    fail_data("read_audio", fmt::format("'{}' holds no sound", path.string()));
  // Read on to the end and not by the header's count, which a damaged file may put at anything.
  std::vector<float> block(4096 * static_cast<std::size_t>(info.channels));
  Recording recording{.samples = {}, .rate = info.samplerate};
  for (sf_count_t got = 0; (got = sf_readf_float(file.get(), block.data(), 4096)) > 0;)
    for (sf_count_t t = 0; t < got; ++t) {
      float sum = 0;
      for (int c = 0; c < info.channels; ++c)
        sum += block[static_cast<std::size_t>(t * info.channels + c)];
      recording.samples.push_back(sum / static_cast<float>(info.channels));
    }
  if (std::ssize(recording.samples) != info.frames)
    fail_data("read_audio", fmt::format("'{}' ends after {} of {} samples", path.string(),
                                        recording.samples.size(), info.frames));
  return recording;
}

double mel_of_hertz(double hertz) { return 2595 * std::log10(1 + hertz / 700); }
double hertz_of_mel(double mel) { return 700 * (std::pow(10, mel / 2595) - 1); }

struct LogMel::Transform {
  std::unique_ptr<kiss_fftr_state, FreeTransform> fft;
  std::vector<float> hann;
  std::vector<Band> bands;
  std::vector<double> centers;
  // What a frame goes through.
  std::vector<float> windowed, padded, powers;
  std::vector<kiss_fft_cpx> spectrum;
};

LogMel::LogMel(const LogMelOptions& options)
    : options_(options), transform_(std::make_unique<Transform>()) {
  LogMelOptions& o = options_;
  if (o.high == 0) o.high = static_cast<double>(o.rate) / 2;
  if (o.rate < 1 || o.window < 1 || o.hop < 1 || o.bands < 1 || o.fft < o.window ||
      o.fft % 2 != 0 || o.fft > 1 << 24 || !(o.low >= 0 && o.low < o.high) ||
      !(o.high <= static_cast<double>(o.rate) / 2) || !(o.floor > 0))
    fail("log_mel",
         fmt::format("window {}, hop {}, fft {}, {} bands from {} to {} Hz at {} samples a second",
                     o.window, o.hop, o.fft, o.bands, o.low, o.high, o.rate),
         "An fft is even and holds the window; bands lie between 0 and half the rate");
  const auto bins = static_cast<std::size_t>(o.fft / 2 + 1);
  Transform& t = *transform_;
  t.fft.reset(kiss_fftr_alloc(static_cast<int>(o.fft), 0, nullptr, nullptr));
  if (t.fft == nullptr) fail("log_mel", fmt::format("no transform of {} samples", o.fft));
  t.windowed.resize(static_cast<std::size_t>(o.window));
  t.padded.resize(static_cast<std::size_t>(o.fft));
  t.powers.resize(bins);
  t.spectrum.resize(bins);
  for (std::int64_t i = 0; i < o.window; ++i)
    t.hann.push_back(
        static_cast<float>(0.5 - 0.5 * std::cos(2 * std::numbers::pi * static_cast<double>(i) /
                                                static_cast<double>(o.window))));
  const double lowest = mel_of_hertz(o.low),
               step = (mel_of_hertz(o.high) - lowest) / static_cast<double>(o.bands + 1);
  const auto middle = [&](std::int64_t band) {
    return hertz_of_mel(lowest + step * static_cast<double>(band + 1));
  };
  for (std::int64_t b = 0; b < o.bands; ++b) {
    const double below = middle(b - 1), center = middle(b), above = middle(b + 1);
    Band band;
    for (std::size_t k = 0; k < bins; ++k) {
      const double hertz =
          static_cast<double>(k) * static_cast<double>(o.rate) / static_cast<double>(o.fft);
      const double weight =
          std::min((hertz - below) / (center - below), (above - hertz) / (above - center));
      if (weight <= 0) continue;
      if (band.weights.empty()) band.first = static_cast<std::int64_t>(k);
      band.weights.push_back(static_cast<float>(weight));
    }
    if (band.weights.empty())
      fail("log_mel",
           fmt::format("band {} of {}, around {:.0f} Hz, holds no frequency of an fft of {}", b,
                       o.bands, center, o.fft),
           "Take a longer fft or fewer bands");
    t.bands.push_back(std::move(band));
    t.centers.push_back(center);
  }
}

LogMel::LogMel(LogMel&&) noexcept = default;
LogMel& LogMel::operator=(LogMel&&) noexcept = default;
LogMel::~LogMel() = default;

double LogMel::center(std::int64_t band) const {
  return transform_->centers.at(static_cast<std::size_t>(band));
}

std::span<const float> LogMel::power(std::span<const float> samples) {
  Transform& t = *transform_;
  if (samples.size() > t.padded.size())
    fail("log_mel", fmt::format("{} samples for an fft of {}", samples.size(), options_.fft));
  std::fill(std::copy(samples.begin(), samples.end(), t.padded.begin()), t.padded.end(), 0.f);
  kiss_fftr(t.fft.get(), t.padded.data(), t.spectrum.data());
  std::transform(t.spectrum.begin(), t.spectrum.end(), t.powers.begin(),
                 [&](const kiss_fft_cpx& c) {
                   return (c.r * c.r + c.i * c.i) / static_cast<float>(options_.fft);
                 });
  return t.powers;
}

void LogMel::frame(std::span<const float> samples, std::span<float> into) {
  Transform& t = *transform_;
  if (std::ssize(samples) != options_.window || std::ssize(into) != options_.bands)
    fail("log_mel", fmt::format("a frame of {} samples into {} bands; {} and {} are expected",
                                samples.size(), into.size(), options_.window, options_.bands));
  std::transform(samples.begin(), samples.end(), t.hann.begin(), t.windowed.begin(),
                 std::multiplies<>());
  power(t.windowed);
  for (std::size_t b = 0; b < t.bands.size(); ++b) {
    double sum = options_.floor;
    const Band& band = t.bands[b];
    for (std::size_t k = 0; k < band.weights.size(); ++k)
      sum += static_cast<double>(band.weights[k]) *
             static_cast<double>(t.powers[static_cast<std::size_t>(band.first) + k]);
    into[b] = static_cast<float>(std::log(sum));
  }
}

Tensor LogMel::operator()(std::span<const float> samples) {
  const auto window = static_cast<std::size_t>(options_.window);
  const auto bands = static_cast<std::size_t>(options_.bands);
  std::vector<float> filled;
  if (samples.size() < window) {
    filled.assign(samples.begin(), samples.end());
    filled.resize(window);
    samples = filled;
  }
  const std::int64_t frames = 1 + (std::ssize(samples) - options_.window) / options_.hop;
  Tensor result = Tensor::empty({frames, options_.bands});
  const std::span<float> values = result.mutable_data<float>();
  for (std::int64_t t = 0; t < frames; ++t)
    frame(samples.subspan(static_cast<std::size_t>(t * options_.hop), window),
          values.subspan(static_cast<std::size_t>(t) * bands, bands));
  return result;
}

}  // namespace unroll
