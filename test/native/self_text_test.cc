// Text that a model writes itself, on the small models of test/fixtures/pytorch.
#include "model/self_text.h"

#include <algorithm>

#include "check.h"
#include "fixture.h"
#include "model/decode_pass.h"
#include "model/kv_cache.h"
#include "model/session.h"

using flrc::DocumentForm;
using flrc::Job;
using flrc::KvCache;
using flrc::SelfTextOptions;

namespace {

constexpr int64_t kMegabyte = 1 << 20;

SelfTextOptions options() {
  SelfTextOptions options;
  options.forms = {{{1, 2, 3, 4, 5}, {{}}, {}, 12}, {{}, {{7, 8}, {9, 7}}, {9, 6}, 12}};
  options.ends = {9, 10, 11, 12};
  options.windows = 18;
  options.length = 12;
  options.seed = 3;
  options.memory = 64 * kMegabyte;
  return options;
}

std::vector<int32_t> windowOf(const std::vector<int32_t>& text, int64_t index, int64_t length) {
  return {text.begin() + index * length, text.begin() + (index + 1) * length};
}

}  // namespace

TEST("decode pass: a token of 16 sequences of different lengths is bitwise what its own session gives") {
  for (const std::string& name : fixture::names()) {
    const auto of = fixture::load(name, 2);
    const Job job;
    const int64_t vocab = of.model->config.vocab;
    std::vector<flrc::KvCache> caches(16, flrc::KvCache(of.model->config, of.model->dtype));
    flrc::DecodePass pass(*of.model);
    std::vector<float> logits(static_cast<size_t>(16 * vocab));
    std::vector<std::vector<int32_t>> appended(16);
    // Sequence i begins at step i % 5, so that positions differ in every batch.
    for (int64_t step = 0; step < 9; ++step) {
      std::vector<flrc::PassRow> rows;
      std::vector<int32_t> tokens;
      std::vector<int64_t> all;
      for (int64_t i = 0; i < 16; ++i) {
        if (step < i % 5) continue;
        all.push_back(static_cast<int64_t>(rows.size()));
        rows.push_back({&caches[i], caches[i].length++});
        tokens.push_back(static_cast<int32_t>((3 * i + 5 * step) % vocab));
        appended[i].push_back(tokens.back());
      }
      pass.run(tokens.data(), rows.data(), static_cast<int64_t>(rows.size()), 0, job);
      pass.logits(all.data(), static_cast<int64_t>(all.size()), logits.data());
    }
    for (int64_t i = 0; i < 16; ++i) {
      flrc::Session alone(of.model);
      for (int32_t token : appended[i]) alone.append(&token, 1, 0, job);
      const std::vector<float> expected = alone.logits();
      CHECK(std::equal(expected.begin(), expected.end(), logits.begin() + i * vocab));
    }
  }
}

TEST("self text: the same windows however many are written together and with any threads") {
  for (const std::string& name : fixture::names()) {
    const SelfTextOptions how = options();
    const auto text = writeSelfText(*fixture::load(name, 1).model, how, Job());
    CHECK_EQUAL(text.size(), size_t{18 * 12});
    SelfTextOptions alone = how, few = how, other = how;
    alone.memory = 0;
    few.windows = 3;
    other.seed = 4;
    CHECK(writeSelfText(*fixture::load(name, 3).model, how, Job()) == text);
    CHECK(writeSelfText(*fixture::load(name, 2).model, alone, Job()) == text);
    const auto first = writeSelfText(*fixture::load(name, 2).model, few, Job());
    CHECK(std::equal(first.begin(), first.end(), text.begin()));
    CHECK(writeSelfText(*fixture::load(name, 2).model, other, Job()) != text);
    CHECK(windowOf(text, 0, 12) != windowOf(text, 2, 12));
  }
}

TEST("self text: windows are written together as far as memory holds what their caches take") {
  const auto of = fixture::load(fixture::names().front(), 2);
  SelfTextOptions how = options();
  how.length = 64;
  const int64_t one = KvCache::roomFor(64) * KvCache::positionBytes(of.model->config, of.model->dtype);
  for (const auto& [memory, together] : {std::pair{4 * one, 4}, {4 * one - 1, 3}, {int64_t{0}, 1}}) {
    how.memory = memory;
    int64_t first = 0;
    const Job job([&](const char*, int64_t done, int64_t) { first = first > 0 ? first : done; });
    writeSelfText(*of.model, how, job);
    CHECK_EQUAL(first, together);
  }
}

TEST("self text: what the model writes is what a session samples after the same tokens") {
  const auto of = fixture::load(fixture::names().front(), 2);
  SelfTextOptions how = options();
  how.forms = {{{}, {{7}}, {}, 1}};
  how.ends = {};
  how.windows = 1;
  how.topP = 0.9;
  how.length = 20;
  const auto text = writeSelfText(*of.model, how, Job());
  CHECK_EQUAL(text[0], 7);
  flrc::Session session(of.model);
  for (size_t t = 0; t + 1 < text.size(); ++t) {
    session.append(&text[t], 1, 0, Job());
    flrc::Sampling drawn;
    drawn.temperature = 1;
    drawn.topP = 0.9;
    drawn.seed = flrc::selfTextSeed(how.seed, 0);
    drawn.draw = t;
    CHECK_EQUAL(session.sample(drawn).token, text[t + 1]);
  }
}

TEST("self text: documents keep to their form") {
  const auto of = fixture::load(fixture::names().front(), 2);
  SelfTextOptions how = options();
  how.length = std::min<int64_t>(of.model->config.context, 400);
  how.windows = 4;
  for (auto& form : how.forms) form.longest = how.length;
  // Nearly every token ends a stretch, so that many documents are seen.
  how.ends.clear();
  for (int32_t token = 9; token < of.model->config.vocab; ++token) how.ends.push_back(token);
  const auto text = writeSelfText(*of.model, how, Job());
  for (int64_t w = 0; w < how.windows; ++w) {
    const auto window = windowOf(text, w, how.length);
    const bool plain = w % 2 == 0;
    size_t documents = 0;
    // State: how much of the form has been seen. Plain: a start, then tokens up to an end token.
    size_t t = 0;
    const auto at = [&](size_t i) { return i < window.size() ? window[i] : -1; };
    while (t < window.size()) {
      ++documents;
      if (plain) {
        CHECK(at(t) >= 1 && at(t) <= 5);
        ++t;
        while (t < window.size() && window[t] < 9) ++t;
        ++t;
        continue;
      }
      CHECK_EQUAL(at(t), 7);
      CHECK(t + 1 >= window.size() || at(t + 1) == 8);
      for (const int32_t follows : {7, 6}) {  // 9 7 after the first stretch, 9 6 after the second
        t += 2;
        while (t < window.size() && window[t] < 9) ++t;
        CHECK(t >= window.size() || at(t) == 9);
        CHECK(t + 1 >= window.size() || at(t + 1) == follows);
      }
      t += 2;
    }
    CHECK(documents > 3);
  }
}

TEST("self text: a stretch that does not end is ended, but for the last") {
  const auto of = fixture::load(fixture::names().front(), 2);
  SelfTextOptions how = options();
  how.forms = {{{}, {{7, 8}, {9, 7}}, {9, 6}, 3}};
  how.ends = {};
  const auto text = writeSelfText(*of.model, how, Job());
  for (int64_t w = 0; w < how.windows; ++w) {
    const auto window = windowOf(text, w, how.length);
    CHECK_EQUAL(window[0], 7);
    CHECK_EQUAL(window[1], 8);
    CHECK_EQUAL(window[5], 9);
    CHECK_EQUAL(window[6], 7);
  }
  how.forms[0].longest = 20;
  CHECK(writeSelfText(*of.model, how, Job()) != text);
}

TEST("self text: forms and sizes that cannot be used are refused, and a cancelled call ends") {
  const auto of = fixture::load(fixture::names().front(), 1);
  const auto refused = [&](auto&& spoil) {
    SelfTextOptions how = options();
    spoil(how);
    CHECK_THROWS("E_INTERNAL", writeSelfText(*of.model, how, Job()));
  };
  refused([](SelfTextOptions& how) { how.forms.clear(); });
  refused([](SelfTextOptions& how) { how.forms[0].starts.clear(); });
  refused([](SelfTextOptions& how) { how.forms[1].turns.clear(); });
  refused([](SelfTextOptions& how) { how.forms[1].ending = {-1}; });
  refused([](SelfTextOptions& how) { how.ends = {1 << 30}; });
  refused([](SelfTextOptions& how) { how.forms[1].longest = 0; });
  refused([](SelfTextOptions& how) { how.windows = 0; });
  refused([&](SelfTextOptions& how) { how.length = of.model->config.context + 1; });
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS("E_ABORTED", writeSelfText(*of.model, options(), cancelled));
}
