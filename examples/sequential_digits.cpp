// Handwritten digits as sequences: 28 rows of 28 numbers, or 784 pixels one after the other, read
// by an LSTM or a Transformer encoder of the same number of parameters.
//
//     sequential_digits [--quick] [--pixels] [--model lstm|gru|transformer] [--hidden N]
//                       [--epochs N] [--batch N] [--learning-rate R] [--images N]
//                       [--at-least PERCENT] [FOLDER]
//
// What a pixel tells has to be kept for up to 783 steps: by pixels, LSTM and GRU start with units
// that forget after 1 to 784 steps (unroll/layers/chrono.h).
// FOLDER (default: mnist in $UNROLL_DATA) holds MNIST's four files. The last 5000 training images
// choose the epoch; the test images are looked at once, at the end. It ends with 1 where less is
// right than --at-least.
#include <unroll/unroll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string>

using namespace unroll;

struct Digits {
  Tensor images, labels;  ///< u8 [N, 28, 28], u8 [N]
  std::int64_t size() const { return images.size(0); }
};

Digits load(const std::filesystem::path& folder, const std::string& part) {
  Digits digits{read_idx(folder / (part + "-images-idx3-ubyte.gz")),
                read_idx(folder / (part + "-labels-idx1-ubyte.gz"))};
  if (digits.images.rank() != 3 || digits.labels.shape() != Shape{digits.size()})
    throw DataError(folder.string() + ": images and labels do not fit each other");
  return digits;
}

struct Images {
  Tensor x, y;  ///< [T, B, F] f32 and [B] i64
};

// The images numbered by `which`, `columns` pixels a step.
Images gather(const Digits& digits, std::span<const std::int64_t> which, std::int64_t columns) {
  const std::int64_t pixels = digits.images.size(1) * digits.images.size(2);
  const std::int64_t batch = std::ssize(which), steps = pixels / columns;
  Images result{Tensor::empty({steps, batch, columns}), Tensor::empty({batch}, DType::i64)};
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t i = which[static_cast<std::size_t>(b)];
    const std::uint8_t* image = digits.images.ptr<std::uint8_t>() + i * pixels;
    for (std::int64_t p = 0; p < pixels; ++p)
      result.x.mutable_ptr<float>()[(p / columns * batch + b) * columns + p % columns] =
          (static_cast<float>(image[p]) / 255.f - 0.1307f) / 0.3081f;  // training mean, deviation
    result.y.mutable_ptr<std::int64_t>()[b] = digits.labels.ptr<std::uint8_t>()[i];
  }
  return result;
}

struct Reader : Module {
  SequenceEncoder encoder;
  Dropout dropout;
  Linear head;
  Reader(const SequenceEncoderOptions& options, Generator& g)
      : encoder(options, g), dropout(0.2, g), head(encoder.output_size(), 10, g) {
    add("encoder", encoder);
    add("dropout", dropout);
    add("head", head);
  }
  Tensor operator()(const Tensor& x) { return head(dropout(encoder.summary_of(x))); }
};

// Share of images from `begin` to `end` that are read wrong.
double error(Reader& model, const Digits& digits, std::int64_t begin, std::int64_t end,
             std::int64_t columns) {
  const NoGrad constant;
  std::int64_t wrong = 0;
  for (std::int64_t i = begin; i < end; i += 500) {
    std::vector<std::int64_t> which(static_cast<std::size_t>(std::min<std::int64_t>(500, end - i)));
    std::iota(which.begin(), which.end(), i);
    const auto [x, y] = gather(digits, which, columns);
    const Tensor found = argmax(model(x));
    for (std::size_t b = 0; b < which.size(); ++b)
      wrong += found.ptr<std::int64_t>()[b] != y.ptr<std::int64_t>()[b];
  }
  return static_cast<double>(wrong) / static_cast<double>(end - begin);
}

int main(int argc, char** argv) try {
  bool quick = false, pixels = false;
  std::optional<int> epochs;
  std::optional<std::int64_t> batch, given_images, hidden;
  std::optional<double> learning_rate, at_least;
  std::string kind = "lstm", folder;
  CLI::App app("Reads handwritten digits as sequences");
  const auto positive = CLI::Range(1, 1'000'000);
  app.add_flag("--quick", quick, "A small part of the data, as a test");
  app.add_flag("--pixels", pixels, "784 steps of one pixel, not 28 of a row");
  app.add_option("--model", kind)->check(CLI::IsMember({"lstm", "gru", "transformer"}));
  app.add_option("--hidden", hidden)->check(positive);
  app.add_option("--epochs", epochs)->check(positive);
  app.add_option("--batch", batch)->check(positive);
  app.add_option("--learning-rate", learning_rate)->check(CLI::PositiveNumber);
  app.add_option("--images", given_images, "That train (default: 55000, or 4000 if quick)")
      ->check(positive);
  app.add_option("--at-least", at_least, "Percent of the test images to be right")
      ->check(CLI::Range(0., 100.));
  app.add_option("FOLDER", folder, "Of MNIST's files (default: mnist in $UNROLL_DATA)")
      ->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);
  const char* data = std::getenv("UNROLL_DATA");
  if (folder.empty() && data != nullptr) folder = (std::filesystem::path(data) / "mnist").string();
  if (!std::filesystem::is_directory(folder)) {
    std::printf("skipped: give the folder of MNIST's files, or mnist in $UNROLL_DATA\n");
    return 0;
  }
  const Digits train = load(folder, "train"), test = load(folder, "t10k");
  const std::int64_t held = 5000, columns = pixels ? 1 : 28;
  const std::int64_t most = train.size() - held;
  const std::int64_t images =
      given_images.value_or(quick ? std::min<std::int64_t>(4000, most) : most);
  if (images > most)
    fail("sequential_digits", std::to_string(images) + " images to train on of " +
                                  std::to_string(most) + " that are not held out");

  Generator g(1);
  SequenceEncoderOptions options{.kind = kind, .input_size = columns, .bidirectional = false};
  if (kind == "transformer") {
    options.hidden_size = pixels ? 26 : 56;
    options.num_layers = 2;
    options.heads = pixels ? 1 : 4;
    options.dropout = pixels ? 0 : 0.1;
  } else {
    options.hidden_size = pixels ? 64 : 128;
    if (kind == "gru") options.hidden_size = options.hidden_size * 9 / 8;
    if (pixels) options.longest = 784;
  }
  options.hidden_size = hidden.value_or(options.hidden_size);
  Reader model(options, g);
  std::printf("%s, %lld parameters, %lld images of %lld steps\n", kind.c_str(),
              static_cast<long long>(model.parameter_count()), static_cast<long long>(images),
              static_cast<long long>(784 / columns));
  Adam adam(model.parameters());
  const EpochTask task{.examples = images,
                       .loss =
                           [&](std::span<const std::int64_t> batch) {
                             const auto [x, y] = gather(train, batch, columns);
                             return cross_entropy(model(x), y);
                           },
                       .evaluate =
                           [&] {
                             return error(model, train, train.size() - (quick ? 1000 : held),
                                          train.size(), columns);
                           }};
  const EpochResult result =
      train_epochs(model, adam, task, g,
                   {.epochs = epochs.value_or(quick                             ? 3
                                              : pixels && kind != "transformer" ? 6
                                                                                : 5),
                    .batch = batch.value_or(quick || pixels ? 50 : 100),
                    .learning_rate = learning_rate.value_or(pixels ? 2e-3 : 3e-3),
                    .warmup = 0.05,
                    .clip_norm = 1,
                    .on_epoch = [](const EpochPoint& point) {
                      std::printf("epoch %d: loss %.4f, %.2f %% of what is held out read right\n",
                                  point.epoch, point.train_loss, 100 - 100 * point.validation);
                      std::fflush(stdout);
                    }});
  const std::int64_t count = quick ? 2000 : test.size();
  const double right = 1 - error(model, test, 0, count, columns);
  std::printf("%.0f s of training: %.2f %% of %lld test images read right\n", result.seconds,
              100 * right, static_cast<long long>(count));
  return 100 * right >= at_least.value_or(quick && !pixels ? 80 : 0) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
