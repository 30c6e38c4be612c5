#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calibrate/calibrate.h"
#include "linalg/channels.h"

namespace flrc {

struct ChannelOptions : PassText {
  double jitter = 1e-8;
  Shrinkage shrinkage;
  int64_t group = 64;   // channels that are dropped together
  int64_t memory = 0;   // bytes that all of it may hold beside the model's weights
  std::string scratch;  // directory for the rest
};

// In which order the MLPs of a model can do without their channels (a row of gate and up, a column of down),
// and what mending down takes.
struct Channels {
  std::shared_ptr<const Model> model;
  std::vector<ChannelRanking> layers;
  std::unique_ptr<SpillStore> moments;  // [layers]: A of down's input, shrunk, packed
  int64_t group = 0;
  double jitter = 0;
  int64_t lossTokens = 0;
  double meanLoss = 0;  // nats a token, under the text's own next token
  double seconds = 0;
};

// One forward pass, then one visit of each layer from the last to the first, as of a calibration; of each layer
// only the moments of down's input and output gradients are summed. Costs are scaled to what some refits lose
// by the text's own gradients, in the unit of truncation curves. Dense models only.
std::unique_ptr<Channels> rankChannels(std::shared_ptr<const Model> model, const ChannelOptions& options,
                                       const Job& job);

// Which channels a layer of so many keeps, rising. E_INTERNAL unless whole groups were ranked to go.
std::vector<int32_t> keptChannels(const Channels& channels, int64_t layer, int64_t width);

// The model with so many channels in each layer, down refitted under A, in the same type. What stays as it is
// is shared with the ranked model.
std::shared_ptr<const Model> dropChannels(const Channels& channels, const std::vector<int32_t>& widths,
                                          const Job& job);

}  // namespace flrc
