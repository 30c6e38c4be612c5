// Session::logprobs against PyTorch's logits and against decoding.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "fixture.h"
#include "model/sampler.h"
#include "model/session.h"

using flrc::Job;
using flrc::Session;

namespace {

// log softmax of PyTorch's logits at position t - 1, of token t.
double expected(const fixture::Fixture& of, int64_t s, int64_t t) {
  const fixture::Array& logits = of.at("logits");
  const int64_t vocab = logits.extent(2);
  const double* row = logits.values.data() + (s * of.length + t - 1) * vocab;
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(row[v]);
  return row[of.tokens[static_cast<size_t>(s * of.length + t)]] - std::log(sum);
}

}  // namespace

TEST("logprobs: those of PyTorch, however the text is cut") {
  for (const std::string& name : fixture::names()) {
    const fixture::Fixture of = fixture::load(name, 2);
    for (int64_t s = 0; s < of.sequences; ++s) {
      const int32_t* tokens = of.tokens.data() + s * of.length;
      Session whole(of.model);
      const auto all = whole.logprobs(tokens, of.length, 1, 0, Job());
      CHECK_EQUAL(static_cast<int64_t>(all.size()), of.length - 1);
      for (int64_t t = 1; t < of.length; ++t) {
        CHECK_NEAR(all[static_cast<size_t>(t - 1)], expected(of, s, t), 2e-4);
      }
      Session cut(of.model);
      cut.append(tokens, 7, 0, Job());
      const auto rest = cut.logprobs(tokens + 7, of.length - 7, 0, 0, Job());
      CHECK_EQUAL(static_cast<int64_t>(rest.size()), of.length - 7);
      for (int64_t t = 7; t < of.length; ++t) {
        CHECK_NEAR(rest[static_cast<size_t>(t - 7)], expected(of, s, t), 2e-4);
      }
      CHECK_EQUAL(cut.length(), of.length);
      // What is kept afterwards is what append keeps.
      // Sums in another order, layer after layer: relative to the logits, as these are to their terms.
      const double tolerance = 5e-6 * static_cast<double>(of.model->config.layers);
      for (size_t v = 0; v < cut.logits().size(); ++v) {
        CHECK_NEAR(cut.logits()[v], whole.logits()[v], tolerance * std::max(1.0f, std::abs(whole.logits()[v])));
      }
    }
  }
}

TEST("logprobs: bitwise those of decoding for up to 16 tokens, also after a rewind") {
  const fixture::Fixture of = fixture::load(fixture::names().front(), 2);
  const int32_t* tokens = of.tokens.data();
  Session decoded(of.model);
  decoded.append(tokens, 5, 0, Job());
  std::vector<double> one;
  for (int64_t t = 5; t < 20; ++t) {
    one.push_back(flrc::tokenLogprob(decoded.logits().data(), of.model->config.vocab, tokens[t]));
    decoded.append(tokens + t, 1, 0, Job());
  }
  Session session(of.model);
  session.append(tokens, 5, 0, Job());
  CHECK(session.logprobs(tokens + 5, 15, 0, 0, Job()) == one);
  session.rewind(4);
  CHECK(session.logprobs(tokens + 4, 16, 1, 0, Job()) == one);
}

TEST("logprobs: what cannot be looked up is refused and leaves the session as it was") {
  const fixture::Fixture of = fixture::load(fixture::names().front(), 2);
  const int32_t* tokens = of.tokens.data();
  Session session(of.model);
  CHECK_THROWS("E_INTERNAL", session.logprobs(tokens, 3, 0, 0, Job()));
  CHECK_THROWS("E_INTERNAL", session.logprobs(tokens, 3, 4, 0, Job()));
  CHECK_THROWS("E_INTERNAL", session.logprobs(tokens, 3, -1, 0, Job()));
  CHECK_THROWS("E_INTERNAL", session.logprobs(tokens, 3, 1, 1, Job()));
  session.append(tokens, 3, 0, Job());
  const int32_t unknown[] = {static_cast<int32_t>(of.model->config.vocab)};
  CHECK_THROWS("E_INTERNAL", session.logprobs(unknown, 1, 0, 0, Job()));
  CHECK_EQUAL(session.length(), 3);
  CHECK_EQUAL(session.logprobs(tokens, 0, 0, 0, Job()).size(), size_t{0});
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS("E_ABORTED", session.logprobs(tokens + 3, 2, 0, 0, cancelled));
  CHECK_THROWS("E_ABORTED", session.append(tokens + 3, 2, 0, cancelled));
  CHECK_EQUAL(session.length(), 3);
  CHECK(!session.logits().empty());
}

TEST("logprobs: a logit that is not finite is an error") {
  const float logits[] = {0.0f, NAN, 1.0f};
  CHECK_THROWS("E_NUMERIC", flrc::tokenLogprob(logits, 3, 0));
  const float equal[] = {2.0f, 2.0f, 2.0f, 2.0f};
  CHECK_NEAR(flrc::tokenLogprob(equal, 4, 1), std::log(0.25), 1e-12);
}
