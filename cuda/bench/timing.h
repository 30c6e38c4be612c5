#pragma once

// Timing on a GPU: what is timed is recorded as a graph, so that launching it costs the CPU nothing.

#include <algorithm>
#include <string>
#include <vector>

#include "bench/parts.h"
#include "tensor/dtype.h"
#include "test/device.h"

namespace bench {

inline constexpr int kRounds = 9;

struct Chip {
  std::string name;
  int multiprocessors;
  size_t l2Bytes;
  int sharedBytes;  // that a block can have
  bool hopper;
  int warpgroups;        // multiprocessors that have warpgroup products
  double bandwidth = 0;  // of reading, bytes a second
};

inline Chip chipOf() {
  cudaDeviceProp properties;
  flrc::gpu::check(cudaGetDeviceProperties(&properties, 0));
  return {properties.name,
          properties.multiProcessorCount,
          static_cast<size_t>(properties.l2CacheSize),
          static_cast<int>(properties.sharedMemPerBlockOptin),
          properties.major >= 9,
          properties.major == 9 && properties.minor == 0 ? properties.multiProcessorCount : 0};
}

// Median seconds of one replay of what `record` launches.
template <typename Record>
double replaySeconds(test::Device& device, const Record& record) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  flrc::gpu::check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
  record();
  flrc::gpu::check(cudaStreamEndCapture(device.stream(), &graph));
  flrc::gpu::check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin, end;
  flrc::gpu::check(cudaEventCreate(&begin));
  flrc::gpu::check(cudaEventCreate(&end));
  std::vector<float> milliseconds;
  for (int round = -2; round < kRounds; ++round) {
    flrc::gpu::check(cudaEventRecord(begin, device.stream()));
    flrc::gpu::check(cudaGraphLaunch(executable, device.stream()));
    flrc::gpu::check(cudaEventRecord(end, device.stream()));
    flrc::gpu::check(cudaEventSynchronize(end));
    float time = 0;
    flrc::gpu::check(cudaEventElapsedTime(&time, begin, end));
    // The first replays warm up.
    if (round >= 0) milliseconds.push_back(time);
  }
  flrc::gpu::check(cudaEventDestroy(begin));
  flrc::gpu::check(cudaEventDestroy(end));
  flrc::gpu::check(cudaGraphExecDestroy(executable));
  flrc::gpu::check(cudaGraphDestroy(graph));
  std::nth_element(milliseconds.begin(), milliseconds.begin() + kRounds / 2, milliseconds.end());
  return static_cast<double>(milliseconds[kRounds / 2]) / 1e3;
}

// bf16 values of either sign, from 1/4 to 1.
inline std::vector<uint16_t> halves(int64_t count) {
  std::vector<uint16_t> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (uint16_t& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<uint16_t>((state >> 16 & 0x80ff) | 0x3e80);
  }
  return values;
}

// One figure. What does not apply is 0.
struct Row {
  std::string name;
  double microseconds;
  double bytes = 0;  // read of weights or caches
  double flops = 0;
  int columns = 0;
  int aheadBytes = 0;  // that a block has the L2 cache fetch
  double ratio = 0;    // of this time to that of ours for the same work
};

// Where rows go as they are measured: printed, and to a file.
class Report {
 public:
  Report(const Chip& chip, const std::string& file) : chip(chip), lines_(file) {}
  void add(const Row& row);
  const Chip chip;

 private:
  Lines lines_;
};

// Bytes a second that reading reaches.
double readBandwidth(test::Device& device, const Chip& chip);

void timeLinears(test::Device& device, Report& report, flrc::Dtype dtype);
void timeSteps(test::Device& device, Report& report, flrc::Dtype dtype);
// Two of its calls for each low-rank product in bf16.
void timeCublas(test::Device& device, Report& report);

void timeDecodeAttention(test::Device& device, Report& report);
void timeNormsAndGates(test::Device& device, Report& report);
void timeSampling(test::Device& device, Report& report);
void timePrefillAttention(test::Device& device, Report& report);

void timeRowsOfPasses(test::Device& device, Report& report);
void timeCausalAttention(test::Device& device, Report& report);
void timeLabelLosses(test::Device& device, Report& report);

// What multiplies by warps, or by warpgroups where the chip has them.
enum class Multiply { warps, warpgroups };
void timeFisher(test::Device& device, Report& report, Multiply by);
void timeMoments(test::Device& device, Report& report, Multiply by);
void timeThinProducts(test::Device& device, Report& report, Multiply by);
void timeCurves(test::Device& device, Report& report);
void timeFactors(test::Device& device, Report& report);

}  // namespace bench
