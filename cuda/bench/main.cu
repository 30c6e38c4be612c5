#include <cstdio>
#include <stdexcept>

#include "bench/timing.h"

// Times kernels on a GPU. Prints a table; with a file name, writes JSON there as well.

namespace bench {

void print(const Row& row, const Chip& chip) {
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
}

namespace {

void writeJson(const char* file, const Chip& chip, const std::vector<Row>& rows) {
  std::FILE* out = std::fopen(file, "w");
  if (out == nullptr) throw std::runtime_error(std::string("cannot write ") + file);
  std::fprintf(out, "{\n  \"device\": \"%s\",\n  \"bandwidth\": %.6g,\n  \"rows\": [", chip.name.c_str(),
               chip.bandwidth);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    std::fprintf(out,
                 "%s\n    {\"name\": \"%s\", \"columns\": %d, \"aheadBytes\": %d, "
                 "\"microseconds\": %.4f, \"bytes\": %.0f, \"flops\": %.6g, \"ratio\": %.4f}",
                 i > 0 ? "," : "", row.name.c_str(), row.columns, row.aheadBytes, row.microseconds, row.bytes,
                 row.flops, row.ratio);
  }
  std::fprintf(out, "\n  ]\n}\n");
  std::fclose(out);
}

}  // namespace
}  // namespace bench

int main(int count, char** arguments) {
  bench::Chip chip = bench::chipOf();
  test::Device device;
  chip.bandwidth = bench::readBandwidth(device, chip);
  std::printf("%s, %.0f GB/s of reading measured\n", chip.name.c_str(), chip.bandwidth / 1e9);
  std::printf("%-60s %4s %7s %10s\n", "case", "cols", "ahead", "median");
  std::vector<bench::Row> rows;
  bench::timeLinears(device, chip, rows);
  bench::timeSteps(device, chip, rows);
  bench::timeDecode(device, chip, rows);
  bench::timeOthers(device, chip, rows);
  bench::timePasses(device, chip, rows);
  bench::timeCalibration(device, chip, rows);
  if (count > 1) bench::writeJson(arguments[1], chip, rows);
  return 0;
}
