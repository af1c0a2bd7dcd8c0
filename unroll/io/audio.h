#pragma once

#include <unroll/graph/tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

namespace unroll {

/// Sound of one channel, samples in -1 to 1.
struct Recording {
  std::vector<float> samples;
  std::int64_t rate = 0;  ///< samples a second
  double seconds() const {
    return rate > 0 ? static_cast<double>(samples.size()) / static_cast<double>(rate) : 0;
  }
};

/// Reads WAV, FLAC and whatever else libsndfile knows; several channels are averaged. Throws
/// DataError for a file that is missing, empty, cut or in no known format.
Recording read_audio(const std::filesystem::path& path);

struct LogMelOptions {
  std::int64_t rate = 8000;   ///< samples a second
  std::int64_t window = 200;  ///< samples of a frame: 25 ms
  std::int64_t hop = 80;      ///< samples from frame to frame: 10 ms
  std::int64_t fft = 256;     ///< even, no shorter than the window
  std::int64_t bands = 40;
  double low = 20;       ///< Hz
  double high = 0;       ///< Hz; 0: half the rate
  double floor = 1e-10;  ///< added to a band's power
};

/// 2595 log10(1 + f / 700) (O'Shaughnessy, 1987), and back.
double mel_of_hertz(double hertz);
double hertz_of_mel(double mel);

/// Logarithms of the power in bands that are evenly spaced in mel: a frame under a Hann window, its
/// power spectrum |FFT|^2 / fft, and triangles that rise from the middle of the band below to 1 and
/// fall to the middle of the one above. A frame depends on its own samples alone, so that a stream
/// gives what the whole recording does.
class LogMel {
 public:
  /// Throws Error for sizes that make no sense, and for bands too narrow to hold a frequency of
  /// the spectrum.
  explicit LogMel(const LogMelOptions& options = {});
  LogMel(LogMel&&) noexcept;
  LogMel& operator=(LogMel&&) noexcept;
  ~LogMel();

  const LogMelOptions& options() const { return options_; }
  /// Hz at which a band's triangle is 1.
  double center(std::int64_t band) const;
  /// |FFT|^2 / fft of up to `fft` samples, zeros behind them, no window: fft / 2 + 1 powers.
  std::span<const float> power(std::span<const float> samples);
  /// One frame: window samples -> into, one number a band.
  void frame(std::span<const float> samples, std::span<float> into);
  /// A recording -> [T, bands], T = 1 + (samples - window) / hop; a shorter one than a window is
  /// one frame, filled up with zeros.
  Tensor operator()(std::span<const float> samples);

 private:
  struct Transform;

  LogMelOptions options_;
  std::unique_ptr<Transform> transform_;
};

}  // namespace unroll
