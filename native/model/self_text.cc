#include "model/self_text.h"

#include <algorithm>
#include <memory>

#include "core/error.h"
#include "core/random.h"
#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "model/decode_pass.h"
#include "model/sampler.h"

namespace flrc {
namespace {

// One window being written.
class Window {
 public:
  Window(const Model& model, const SelfTextOptions& options, const std::vector<bool>& ends, int64_t index)
      : model_(model),
        ends_(ends),
        form_(options.forms[static_cast<size_t>(index) % options.forms.size()]),
        cache(model.config, model.dtype) {
    sampling_.temperature = options.temperature;
    sampling_.topP = options.topP;
    sampling_.seed = selfTextSeed(options.seed, index);
    beginDocument();
  }

  bool samples() const { return given_.empty(); }

  // The next token: given, or drawn from logits [vocab].
  int32_t write(const float* logits) {
    int32_t token;
    if (samples()) {
      token = sampleToken(logits, model_.config.vocab, sampling_).token;
      ++sampling_.draw;
      ++written_;
      if (ends_[static_cast<size_t>(token)]) {
        endStretch();
        if (!given_.empty()) token = take();
      } else if (written_ == form_.longest && stretch_ + 1 < form_.turns.size()) {
        endStretch();
      }
    } else {
      token = take();
    }
    fresh_ = given_.empty() && stretch_ == form_.turns.size();
    if (fresh_) beginDocument();
    return token;
  }

  // Whether the document ended with the last token: the next one begins from an empty context.
  bool fresh() const { return fresh_; }

 private:
  void beginDocument() {
    cache.length = 0;
    stretch_ = 0;
    written_ = 0;
    if (!form_.starts.empty()) {
      const auto count = static_cast<double>(form_.starts.size());
      const double drawn = randomUniform(sampling_.seed, sampling_.draw++) * count;
      given_.push_back(form_.starts[static_cast<size_t>(drawn)]);
    }
    give(form_.turns.front());
  }

  void endStretch() {
    ++stretch_;
    written_ = 0;
    give(stretch_ < form_.turns.size() ? form_.turns[stretch_] : form_.ending);
  }

  void give(const std::vector<int32_t>& tokens) {
    given_.insert(given_.begin(), tokens.rbegin(), tokens.rend());
  }

  int32_t take() {
    const int32_t token = given_.back();
    given_.pop_back();
    return token;
  }

  const Model& model_;
  const std::vector<bool>& ends_;
  const DocumentForm& form_;
  Sampling sampling_;
  std::vector<int32_t> given_;  // still to be written, the next one last
  size_t stretch_ = 0;
  int64_t written_ = 0;  // of the stretch
  bool fresh_ = false;

 public:
  KvCache cache;
};

void check(const Model& model, const SelfTextOptions& options) {
  if (options.forms.empty() || options.windows < 1 || options.length < 1 ||
      options.length > model.config.context) {
    throw Error(code::internal, "self-written text needs a form, a window and a length within the context");
  }
  const auto inside = [&](const std::vector<int32_t>& tokens) {
    model.checkTokens(tokens.data(), static_cast<int64_t>(tokens.size()));
  };
  inside(options.ends);
  for (const DocumentForm& form : options.forms) {
    if (form.turns.empty() || (form.starts.empty() && form.turns.front().empty())) {
      throw Error(code::internal, "a form of self-written text gives no token to begin with");
    }
    if (form.longest < 1) throw Error(code::internal, "a stretch of self-written text has no room");
    inside(form.starts);
    inside(form.ending);
    for (const auto& turn : form.turns) inside(turn);
  }
}

int64_t windowsAtOnce(const Model& model, const SelfTextOptions& options) {
  const int64_t bytes = KvCache::roomFor(options.length) * KvCache::positionBytes(model.config, model.dtype);
  return std::clamp<int64_t>(options.memory / std::max<int64_t>(1, bytes), 1, cpu::kMaxColumns);
}

// Windows [first, first + count), written to text [count, length].
void writeBatch(const Model& model, const SelfTextOptions& options, const std::vector<bool>& ends,
                int64_t first, int64_t count, int32_t* text, const Job& job) {
  const int64_t vocab = model.config.vocab, length = options.length;
  std::vector<std::unique_ptr<Window>> windows;
  for (int64_t i = 0; i < count; ++i) {
    windows.push_back(std::make_unique<Window>(model, options, ends, first + i));
  }
  DecodePass pass(model);
  std::vector<PassRow> rows;
  std::vector<int32_t> tokens;
  std::vector<int64_t> sampling;                           // rows whose logits are needed
  std::vector<int64_t> place(static_cast<size_t>(count));  // of a window's logits
  std::vector<float> logits(static_cast<size_t>(count * vocab));
  for (int64_t t = 0; t < length; ++t) {
    job.check();
    ThreadPool::shared().parallelFor(count, model.threads, [&](int64_t i) {
      text[i * length + t] =
          windows[static_cast<size_t>(i)]->write(logits.data() + place[static_cast<size_t>(i)] * vocab);
    });
    job.report("writing calibration text", first * length + (t + 1) * count, options.windows * length);
    rows.clear();
    tokens.clear();
    sampling.clear();
    for (int64_t i = 0; i < count; ++i) {
      Window& window = *windows[static_cast<size_t>(i)];
      if (window.fresh()) continue;
      if (window.samples()) {
        place[static_cast<size_t>(i)] = static_cast<int64_t>(sampling.size());
        sampling.push_back(static_cast<int64_t>(rows.size()));
      }
      rows.push_back({&window.cache, window.cache.length++});
      tokens.push_back(text[i * length + t]);
    }
    if (rows.empty() || t + 1 == length) continue;
    pass.run(tokens.data(), rows.data(), static_cast<int64_t>(rows.size()), 0, job);
    if (!sampling.empty()) pass.logits(sampling.data(), static_cast<int64_t>(sampling.size()), logits.data());
  }
}

}  // namespace

std::vector<int32_t> writeSelfText(const Model& model, const SelfTextOptions& options, const Job& job) {
  check(model, options);
  std::vector<bool> ends(static_cast<size_t>(model.config.vocab));
  for (int32_t end : options.ends) ends[static_cast<size_t>(end)] = true;
  std::vector<int32_t> text(static_cast<size_t>(options.windows * options.length));
  const int64_t together = windowsAtOnce(model, options);
  for (int64_t first = 0; first < options.windows; first += together) {
    const int64_t count = std::min(together, options.windows - first);
    writeBatch(model, options, ends, first, count, text.data() + first * options.length, job);
  }
  return text;
}

}  // namespace flrc
