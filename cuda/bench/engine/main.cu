// Times whole models on a GPU, through the table that the core calls: prefill, and decoding dense (in bf16,
// int8 and int4), at half the block parameters, with a budget that falls while tokens are written, and several
// sequences at once. Models have the shape of Llama 3.2 1B and weights that mean nothing. Each is a part of its
// own (bench/parts.h) in either way that a token alone may go, in one launch and in many, and is timed after it
// has been seen that a token gets the logits bit for bit that it gets in a batch.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "bench/engine/model.h"
#include "bench/parts.h"

extern "C" const flrc::Backend* flrc_backend();

namespace {

using bench::kVocab;
using bench::Model;
using bench::Storage;
using flrc::Backend;
using flrc::BackendFailure;
using flrc::Dtype;

constexpr int64_t kPrompt = 512;
constexpr int kTokens = 128;
constexpr int kRounds = 5;

template <typename Call>
void must(const Call& call) {
  BackendFailure failure{};
  if (call(&failure) != flrc::BackendCode::ok) throw std::runtime_error(failure.message);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

struct Timing {
  double prefillSeconds, stepSeconds;
};

// Medians over rounds of a prompt and of steps after it, in each of which every sequence gets a token; step i
// of kTokens at levelOf(i).
template <typename LevelOf>
Timing timeModel(const Backend& table, flrc::DeviceModel* model, int sequences, const LevelOf& levelOf) {
  const flrc::BackendCancel never = {nullptr, [](void*) { return false; }};
  flrc::DevicePass* pass = nullptr;
  must([&](BackendFailure* f) { return table.createPass(model, &pass, f); });
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < kPrompt; ++i) prompt.push_back(i * 97 % static_cast<int32_t>(kVocab));
  std::vector<double> prefill, step;
  auto seconds = [from = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    const double passed = std::chrono::duration<double>(now - from).count();
    from = now;
    return passed;
  };
  const auto count = static_cast<size_t>(sequences);
  std::vector<int64_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  // The first round records the graphs.
  for (int round = -1; round < kRounds; ++round) {
    std::vector<flrc::DeviceSequence*> each(count);
    std::vector<int32_t> next(count);
    std::vector<flrc::BackendRow> rows;
    // The likeliest tokens of `some` sequences from `first` on.
    const auto sample = [&](size_t first, size_t some) {
      std::vector<flrc::BackendDraw> draws;
      for (size_t s = first; s < first + some; ++s) draws.push_back({each[s], {}});
      std::vector<flrc::BackendSampled> sampled(some);
      must([&](BackendFailure* f) {
        return table.sample(draws.data(), static_cast<int64_t>(some), sampled.data(), f);
      });
      for (size_t s = 0; s < some; ++s) next[first + s] = sampled[s].token;
    };
    for (size_t s = 0; s < count; ++s) {
      must([&](BackendFailure* f) { return table.createSequence(model, &each[s], f); });
      rows.clear();
      for (int64_t t = 0; t < kPrompt; ++t) rows.push_back({each[s], t});
      const int64_t last = kPrompt - 1;
      seconds();
      must([&](BackendFailure* f) {
        return table.run(pass, prompt.data(), rows.data(), kPrompt, levelOf(0), &never, f);
      });
      must([&](BackendFailure* f) { return table.keepLogits(pass, &last, 1, f); });
      sample(s, 1);
      if (round >= 0) prefill.push_back(seconds());
    }
    seconds();
    for (int i = 0; i < kTokens; ++i) {
      rows.clear();
      for (size_t s = 0; s < count; ++s) rows.push_back({each[s], kPrompt + i});
      must([&](BackendFailure* f) {
        return table.run(pass, next.data(), rows.data(), sequences, levelOf(i), &never, f);
      });
      must([&](BackendFailure* f) { return table.keepLogits(pass, all.data(), sequences, f); });
      sample(0, count);
    }
    if (round >= 0) step.push_back(seconds() / kTokens);
    for (flrc::DeviceSequence* sequence : each) table.releaseSequence(sequence);
  }
  table.releasePass(pass);
  return {median(prefill), median(step)};
}

// Whether a token's logits are the same alone and beside another sequence's token.
bool isSameAlone(const Backend& table, flrc::DeviceModel* model, int levels) {
  const flrc::BackendCancel never = {nullptr, [](void*) { return false; }};
  constexpr int64_t kLength = 200;
  flrc::DevicePass* pass = nullptr;
  must([&](BackendFailure* f) { return table.createPass(model, &pass, f); });
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < kLength; ++i) prompt.push_back(i * 89 % static_cast<int32_t>(kVocab));
  const auto run = [&](const std::vector<flrc::DeviceSequence*>& sequences, int64_t position, int level) {
    std::vector<flrc::BackendRow> rows;
    for (flrc::DeviceSequence* sequence : sequences) rows.push_back({sequence, position});
    const auto count = static_cast<int64_t>(rows.size());
    must([&](BackendFailure* f) {
      return table.run(pass, prompt.data() + position % kLength, rows.data(), count, level, &never, f);
    });
    std::vector<float> logits(kVocab);
    const int64_t first = 0;
    must([&](BackendFailure* f) { return table.logits(pass, &first, 1, logits.data(), f); });
    return logits;
  };
  std::vector<flrc::DeviceSequence*> each(3);
  for (flrc::DeviceSequence*& sequence : each) {
    must([&](BackendFailure* f) { return table.createSequence(model, &sequence, f); });
    std::vector<flrc::BackendRow> rows;
    for (int64_t t = 0; t < kLength; ++t) rows.push_back({sequence, t});
    must([&](BackendFailure* f) { return table.run(pass, prompt.data(), rows.data(), kLength, 0, &never, f); });
  }
  bool isSame = true;
  for (int step = 0; step < 4; ++step) {
    const int level = step % levels;
    isSame &= run({each[0]}, kLength + step, level) == run({each[1], each[2]}, kLength + step, level);
  }
  for (flrc::DeviceSequence* sequence : each) table.releaseSequence(sequence);
  table.releasePass(pass);
  return isSame;
}

struct Row {
  std::string name;
  int sequences;
  double bytes;  // of weights, a step
  Timing timing;
};

constexpr const char* kRowFormat =
    "{\"name\": \"%s\", \"sequences\": %d, \"bytesPerStep\": %.0f, \"prompt\": %d, \"tokens\": %d, "
    "\"prefillSeconds\": %.6g, \"stepSeconds\": %.6g}";

// Seconds that a step takes by bytes of weights, as the dense model's row in the file has it; 0 without that
// row.
double promisedByByte(const std::string& file, const std::string& dense) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.find("\"" + dense + "\", \"sequences\": 1,") == std::string::npos) continue;
    const auto valueOf = [&](const std::string& key) {
      return std::stod(line.substr(line.find(key) + key.size()));
    };
    return valueOf("\"stepSeconds\": ") / valueOf("\"bytesPerStep\": ");
  }
  return 0;
}

struct Way {
  const char* name;
  flrc::StepWay way;
};
constexpr Way kMany = {"many", flrc::StepWay::launches}, kOne = {"one launch", flrc::StepWay::whole};

// Times one model and writes its rows.
class Engine {
 public:
  Engine(const Model& model, const Way& way, const std::string& file)
      : model_(model), way_(way), file_(file), lines_(file) {
    BackendFailure failure{};
    if (table_.score(&failure) == 0) throw std::runtime_error(failure.message);
    must([&](BackendFailure* f) { return table_.readBandwidth(&bandwidth_, f); });
    const flrc::BackendModel described = model.describe();
    const flrc::BackendCancel never = {nullptr, [](void*) { return false; }};
    must([&](BackendFailure* f) { return table_.createModel(&described, &never, &weights_, f); });
    weights_->stepWay = way.way;
    if (!isSameAlone(table_, weights_, static_cast<int>(described.levels))) {
      throw std::runtime_error("a token gets other logits alone than in a batch, which goes by many launches");
    }
    std::printf("%-34s %9s %8s %11s %9s %11s %11s %10s\n", "model", "sequences", "MB/step", "prompt, t/s",
                "us/step", "written, t/s", "bandwidth", "promised");
  }
  ~Engine() { table_.releaseModel(weights_); }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // At the levels levelOf(step).
  template <typename LevelOf>
  void time(const std::string& name, double bytes, const LevelOf& levelOf) {
    add({name + ", " + way_.name, 1, bytes, timeModel(table_, weights_, 1, levelOf)});
  }
  // Several sequences go by many launches.
  void timeSeveral(const std::string& name, int level, int sequences) {
    if (way_.way != flrc::StepWay::launches) return;
    const double bytes = model_.bytes(static_cast<size_t>(level));
    add({name, sequences, bytes, timeModel(table_, weights_, sequences, [=](int) { return level; })});
  }

 private:
  // The last column is how much of the dense model's speed over that of this one's bytes is reached: 1 is as
  // fast as the smaller size promises.
  void add(const Row& row) {
    const Timing& timing = row.timing;
    lines_.add(kRowFormat, row.name.c_str(), row.sequences, row.bytes, static_cast<int>(kPrompt), kTokens,
               timing.prefillSeconds, timing.stepSeconds);
    const double promised = promisedByByte(file_, std::string("dense, ") + way_.name) * row.bytes;
    std::printf("%-34s %9d %8.1f %11.0f %9.1f %11.1f %10.1f%%", row.name.c_str(), row.sequences,
                row.bytes / 1e6, static_cast<double>(kPrompt) / timing.prefillSeconds, timing.stepSeconds * 1e6,
                row.sequences / timing.stepSeconds, 100 * row.bytes / timing.stepSeconds / bandwidth_);
    if (promised > 0) std::printf(" %9.1f%%", 100 * promised / timing.stepSeconds);
    std::printf("\n");
    std::fflush(stdout);
  }

  const Backend& table_ = *flrc_backend();
  const Model& model_;
  Way way_;
  std::string file_;
  bench::Lines lines_;
  double bandwidth_ = 0;  // of reading, measured, bytes a second
  flrc::DeviceModel* weights_ = nullptr;
};

struct Timed {
  std::string name;
  Dtype dtype;
  std::vector<double> shares;
  Storage storage;
  std::function<void(Engine&, const Model&)> time;
};

std::vector<Timed> timedModels() {
  const auto alone = [](const std::string& name) {
    return [name](Engine& engine, const Model& model) {
      engine.time(name, model.bytes(0), [](int) { return 0; });
    };
  };
  const auto dense = [](Engine& engine, const Model& model) {
    engine.time("dense", model.bytes(0), [](int) { return 0; });
    for (const int sequences : {4, 16}) engine.timeSeveral("dense", 0, sequences);
  };
  const auto levels = [](Engine& engine, const Model& model) {
    const double high = model.bytes(0), low = model.bytes(1);
    engine.time("pivoted, .9", high, [](int) { return 0; });
    engine.time("pivoted, .5", low, [](int) { return 1; });
    engine.timeSeveral("pivoted, .5", 1, 16);
    engine.time("pivoted, .9, then .5", (high + low) / 2, [](int i) { return i < kTokens / 2 ? 0 : 1; });
  };
  return {{"dense", Dtype::bf16, {}, Storage::pivoted, dense},
          {"pivoted", Dtype::bf16, {0.9, 0.5}, Storage::pivoted, levels},
          {"plain factors", Dtype::bf16, {0.5}, Storage::plain, alone("plain factors, .5")},
          {"dense int8", Dtype::int8, {}, Storage::pivoted, alone("dense int8")},
          {"dense int4", Dtype::int4, {}, Storage::pivoted, alone("dense int4")},
          {"pivoted int8", Dtype::int8, {0.5}, Storage::pivoted, alone("pivoted int8, .5")}};
}

// The head of an int4 model is int8.
std::string suitesOf(Dtype dtype, const Way& way) {
  std::string suites = "decode,decode attention,prefill attention,sample";
  for (const auto& [of, name] :
       {std::pair{Dtype::bf16, "bf16"}, {Dtype::int8, "int8"}, {Dtype::int4, "int4"}}) {
    if (of != dtype && !(of == Dtype::int8 && dtype == Dtype::int4)) continue;
    suites += std::string(",linears ") + name;
    if (way.way == flrc::StepWay::whole) suites += std::string(",step ") + name;
  }
  return suites;
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<bench::Part> parts;
  for (const Way& way : {kMany, kOne}) {
    for (const Timed& timed : timedModels()) {
      parts.push_back({timed.name + ", " + way.name, suitesOf(timed.dtype, way), [=](const std::string& file) {
                         const Model model(timed.shares, timed.storage, timed.dtype);
                         Engine engine(model, way, file);
                         timed.time(engine, model);
                       }});
    }
  }
  return bench::runParts(parts, count, arguments);
}
