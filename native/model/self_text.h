#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "core/random.h"
#include "model/model.h"

namespace flrc {

// What is given of a document; the model writes the rest.
struct DocumentForm {
  std::vector<int32_t> starts;              // one of them, drawn, begins each document; none where empty
  std::vector<std::vector<int32_t>> turns;  // the tokens before each stretch that the model writes
  std::vector<int32_t> ending;              // the tokens after the last stretch
  int64_t longest = 0;                      // tokens of a stretch that is not the last, at most
};

struct SelfTextOptions {
  std::vector<DocumentForm> forms;  // window i is of form i % forms.size()
  std::vector<int32_t> ends;        // tokens that end a stretch
  int64_t windows = 0, length = 0;  // length: tokens in a window
  uint64_t seed = 0;
  double temperature = 1, topP = 1;
  int64_t memory = 0;  // bytes that KV caches may take
};

// The seed that a window's draws are made with, counted from 0 in the order of its tokens.
inline uint64_t selfTextSeed(uint64_t seed, int64_t window) {
  return randomBits(seed, static_cast<uint64_t>(window));
}

// Lets the model write token windows [windows, length] at level 0. A window is filled with documents one after
// another, each written from an empty context, the last one cut off. An end token is written as it is, unless
// the form has tokens to follow: those begin with the ending that belongs there. Windows are advanced together,
// up to 16 in one pass, and each depends on the seed and its index alone.
std::vector<int32_t> writeSelfText(const Model& model, const SelfTextOptions& options, const Job& job);

}  // namespace flrc
