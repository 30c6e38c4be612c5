#include <cstdio>

#include "bench/timing.h"

// Times kernels on a GPU, part by part (parts.h).

namespace bench {

void Report::add(const Row& row) {
  std::printf("%-60s %4d %7d %10.2f us", row.name.c_str(), row.columns, row.aheadBytes, row.microseconds);
  if (row.bytes > 0) {
    const double least = 1e6 * row.bytes / chip.bandwidth;
    std::printf(" %9.2f MB %6.1f%% of bandwidth, %.2f us over", row.bytes / 1e6, 100 * least / row.microseconds,
                row.microseconds - least);
  }
  if (row.flops > 0) std::printf(" %8.1f TFLOP/s", row.flops / row.microseconds / 1e6);
  if (row.ratio > 0) std::printf(" %6.2f times ours", row.ratio);
  std::printf("\n");
  std::fflush(stdout);
  lines_.add(
      "{\"name\": \"%s\", \"columns\": %d, \"aheadBytes\": %d, \"microseconds\": %.4f, \"bytes\": %.0f, "
      "\"flops\": %.6g, \"ratio\": %.4f}",
      row.name.c_str(), row.columns, row.aheadBytes, row.microseconds, row.bytes, row.flops, row.ratio);
}

namespace {

using test::Device;
using namespace std::string_literals;

// Which chip it is, and how fast it reads.
void describe(const std::string& file) {
  const Chip chip = chipOf();
  Device device;
  const double bandwidth = readBandwidth(device, chip);
  std::printf("%s, %.0f GB/s of reading measured\n", chip.name.c_str(), bandwidth / 1e9);
  std::printf("%-60s %4s %7s %10s\n", "case", "cols", "ahead", "median");
  Lines(file).add("{\"device\": \"%s\", \"bandwidth\": %.6g}", chip.name.c_str(), bandwidth);
}

Part part(const std::string& name, const std::string& needs,
          const std::function<void(Device&, Report&)>& time) {
  return {name, needs, [time](const std::string& file) {
            Chip chip = chipOf();
            Device device;
            chip.bandwidth = readBandwidth(device, chip);
            Report report(chip, file);
            time(device, report);
          }};
}

std::vector<Part> parts() {
  using flrc::Dtype;
  std::vector<Part> all = {{"device", "", describe}};
  constexpr std::pair<const char*, Dtype> kDtypes[] = {
      {"bf16", Dtype::bf16}, {"int8", Dtype::int8}, {"int4", Dtype::int4}};
  for (const auto& [name, dtype] : kDtypes) {
    all.push_back(part("products "s + name, "linears "s + name,
                       [dtype = dtype](Device& d, Report& r) { timeLinears(d, r, dtype); }));
  }
  for (const auto& [name, dtype] : kDtypes) {
    all.push_back(part("products in one launch "s + name, "step "s + name,
                       [dtype = dtype](Device& d, Report& r) { timeSteps(d, r, dtype); }));
  }
  all.push_back(part("two cuBLAS calls", "linears bf16", timeCublas));
  all.push_back(part("decode attention", "decode attention", timeDecodeAttention));
  all.push_back(part("norms and gates", "decode", timeNormsAndGates));
  all.push_back(part("sampling", "sample", timeSampling));
  all.push_back(part("prefill attention", "prefill attention", timePrefillAttention));
  all.push_back(part("rows of passes", "decode,passes", timeRowsOfPasses));
  all.push_back(part("causal attention", "causal attention", timeCausalAttention));
  all.push_back(part("label losses", "label losses", timeLabelLosses));
  all.push_back(part("curves", "curves", timeCurves));
  all.push_back(part("factors", "factorize", timeFactors));
  // By warpgroups last: of all kernels these are the likeliest to leave a chip in a bad way.
  for (const auto& [by, multiply] :
       {std::pair{"", Multiply::warps}, {" by warpgroups", Multiply::warpgroups}}) {
    const auto add = [&, by = by, multiply = multiply](const std::string& suite, const auto& time) {
      all.push_back(part(suite + by, suite + by, [=](Device& d, Report& r) {
        if (multiply == Multiply::warps || r.chip.warpgroups > 0) time(d, r, multiply);
      }));
    };
    add("fisher", timeFisher);
    add("moments", timeMoments);
    add("thin products", timeThinProducts);
  }
  return all;
}

}  // namespace
}  // namespace bench

int main(int count, char** arguments) { return bench::runParts(bench::parts(), count, arguments); }
