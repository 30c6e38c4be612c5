// What TypeScript says of a model's files may be wrong in any way: loading gives a model or a clear error, and
// the sanitizers see no access outside a buffer. FLRC_LONG=1 tries many more.
#include <cstdlib>
#include <string>

#include "check.h"
#include "fixture.h"
#include "model/loader.h"
#include "model/session.h"

using flrc::ModelSpec;
using flrc::SourceType;

namespace {

// Numbers that programs trip over, near the true value and far from it.
int64_t strange(check::Random& random, int64_t value) {
  // Unsigned, for value may be at an end already.
  const auto near = [value](uint64_t step) {
    return static_cast<int64_t>(static_cast<uint64_t>(value) + step);
  };
  const int64_t edges[] = {0,
                           1,
                           -1,
                           near(~uint64_t{0}),
                           near(1),
                           near(static_cast<uint64_t>(value)),
                           int64_t{1} << 31,
                           int64_t{1} << 40,
                           INT64_MAX};
  return edges[random.below(std::size(edges))];
}

void mutateConfig(check::Random& random, flrc::ModelConfig& config) {
  int64_t* const sizes[] = {&config.layers,  &config.hidden,       &config.heads, &config.kvHeads,
                            &config.headDim, &config.intermediate, &config.vocab, &config.context};
  bool* const flags[] = {&config.tieEmbeddings, &config.qkvBias, &config.outputBias,
                         &config.mlpBias,       &config.qkNorm,  &config.outputNorms};
  const int64_t kind = random.below(5);
  if (kind == 0) {
    std::vector<int64_t>& widths = config.intermediates;
    if (random.below(4) == 0) {
      widths.resize(static_cast<size_t>(random.below(4)));
    } else {
      int64_t& width = widths[static_cast<size_t>(random.below(std::ssize(widths)))];
      width = strange(random, width);
    }
  } else if (kind < 3) {
    int64_t& size = *sizes[random.below(std::size(sizes))];
    size = strange(random, size);
  } else {
    bool& flag = *flags[random.below(std::size(flags))];
    flag = !flag;
  }
}

void mutateTensor(check::Random& random, ModelSpec& spec) {
  flrc::TensorSource& tensor =
      spec.tensors[static_cast<size_t>(random.below(static_cast<int64_t>(spec.tensors.size())))];
  switch (random.below(6)) {
    case 0:
      tensor.offset = strange(random, tensor.offset);
      break;
    case 1:
      tensor.byteLength = strange(random, tensor.byteLength);
      break;
    case 2:
      tensor.type = static_cast<SourceType>(random.below(14));
      break;
    case 3:
      if (!tensor.shape.empty()) {
        int64_t& extent =
            tensor.shape[static_cast<size_t>(random.below(static_cast<int64_t>(tensor.shape.size())))];
        extent = strange(random, extent);
      }
      break;
    case 4:
      tensor.interleavedHeads = strange(random, 4);
      break;
    default: {
      // Passed off as another tensor: a factor, a part of a quantised matrix, or a namesake.
      const char* const ends[] = {".q", ".scale", ".zero", ".P.0", ".C.0", ".I.0", ".U", ".V"};
      tensor.name = flrc::projectionName(random.below(2), static_cast<int>(random.below(7))) +
                    ends[random.below(std::size(ends))];
    }
  }
}

}  // namespace

TEST("loader: whatever is said of the files, there is a model or an error") {
  const flrc::Job job;
  const int rounds = std::getenv("FLRC_LONG") != nullptr ? 4000 : 200;
  check::Random random(1);
  int loaded = 0, refused = 0;
  for (const std::string& name : {std::string("llama3-scaled"), std::string("qwen3")}) {
    const ModelSpec good = fixture::spec(name, 2);
    for (int round = 0; round < rounds; ++round) {
      ModelSpec spec = good;
      spec.dtype = static_cast<flrc::Dtype>(random.below(4));
      for (int64_t changes = 1 + random.below(2); changes > 0; --changes) {
        if (random.below(3) == 0) {
          mutateConfig(random, spec.config);
        } else {
          mutateTensor(random, spec);
        }
      }
      try {
        const auto model = flrc::loadModel(spec, job);
        const int32_t tokens[] = {1, 2, 3};
        flrc::Session(model).append(tokens, 3, 0, job);
        ++loaded;
      } catch (const flrc::Error&) {
        ++refused;
      }
    }
  }
  CHECK(loaded > 0);
  CHECK(refused > rounds / 2);
}
