// Times projections over more weights than caches hold, beside what memory gives:
//   flrc_bench CHAIN dense|plain|pivoted f32|bf16|int8|int4 RANK THREADS COLUMNS ROUNDS BYTES
// CHAIN: projections as MxN, `+` between those of one input, `,` between one after another. THREADS and COLUMNS
// are lists. In every round each combination goes once over all copies of the chain, BYTES at least, in turn
// with a measurement of the read bandwidth of as many threads. stdout: one JSON line.
//   flrc_bench sgemm THREADS ROUNDS
// The most that products in fp32 reach, which what calibration does is measured by.
#include "cpu/kernels.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "core/bandwidth.h"
#include "core/error.h"
#include "core/random.h"
#include "model/linear.h"
#include "sgemm.h"

using namespace flrc;

namespace {

struct Options {
  std::string kind;
  Dtype dtype = Dtype::bf16;
  int64_t rank = 0;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<int> numbers(const std::string& text) {
  std::vector<int> values;
  for (const std::string& part : split(text, ',')) values.push_back(std::atoi(part.c_str()));
  return values;
}

Dtype dtypeNamed(const std::string& name) {
  constexpr const char* kNames[] = {"f32", "bf16", "int8", "int4"};
  for (int i = 0; i < 4; ++i) {
    if (name == kNames[i]) return static_cast<Dtype>(i);
  }
  throw Error(code::internal, "no dtype is called " + name);
}

std::vector<float> values(int64_t count) {
  std::vector<float> all(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    all[static_cast<size_t>(i)] = static_cast<float>(randomUniform(1, static_cast<uint64_t>(i)) - 0.5);
  }
  return all;
}

void repeat(const Buffer& pattern, Buffer& to) {
  for (size_t at = 0; at < to.size(); at += pattern.size()) {
    std::memcpy(to.data() + at, pattern.data(), std::min(pattern.size(), to.size() - at));
  }
}

// Quantising gigabytes of random numbers would take longer than measuring: a few rows are, and repeated.
template <typename Matrix>
Matrix repeated(Matrix to, const Matrix& pattern) {
  if (pattern.data.size() > 0) repeat(pattern.data, to.data);
  if (pattern.scale.size() > 0) repeat(pattern.scale, to.scale);
  if (pattern.zero.size() > 0) repeat(pattern.zero, to.zero);
  return to;
}

RowMatrix rowsOf(int64_t rows, int64_t cols, Dtype dtype) {
  constexpr int64_t kFew = 8;
  return repeated(allocateRows(rows, cols, dtype),
                  makeRows(values(kFew * cols).data(), kFew, cols, cols, dtype));
}

PanelMatrix panelsOf(int64_t rank, int64_t outputs, Dtype dtype) {
  return repeated(allocatePanels(rank, outputs, dtype),
                  makePanels(values(rank * kPanel).data(), rank, kPanel, kPanel, dtype));
}

Linear projection(int64_t m, int64_t n, const Options& options) {
  Linear linear;
  linear.outputs = m;
  linear.inputs = n;
  if (options.kind == "dense") {
    linear.dense = std::make_shared<RowMatrix>(rowsOf(m, n, options.dtype));
    return linear;
  }
  linear.pivoted = options.kind == "pivoted";
  // Of a chain's smaller projections all ranks but one.
  const int64_t rank = std::min(options.rank, std::min(m, n) - 1);
  auto block = std::make_shared<FactorBlock>();
  block->p = rowsOf(rank, n, options.dtype);
  block->c = panelsOf(rank, linear.pivoted ? m - rank : m, options.dtype);
  if (linear.pivoted) {
    for (int64_t j = 0; j < rank; ++j) block->pivot.push_back(static_cast<int32_t>(j * m / rank));
    finishBlock(*block, m);
  }
  linear.blocks.push_back(std::move(block));
  return linear;
}

// Calls of a chain, those of one input together.
using Chain = std::vector<std::vector<Linear>>;

Chain chainOf(const std::string& text, const Options& options) {
  Chain chain;
  for (const std::string& step : split(text, ',')) {
    chain.emplace_back();
    for (const std::string& shape : split(step, '+')) {
      const std::vector<std::string> sizes = split(shape, 'x');
      if (sizes.size() != 2) throw Error(code::internal, "a projection is MxN, not " + shape);
      chain.back().push_back(projection(std::atoll(sizes[0].c_str()), std::atoll(sizes[1].c_str()), options));
    }
  }
  return chain;
}

size_t bytesOf(const Chain& chain) {
  size_t total = 0;
  for (const auto& step : chain) {
    for (const Linear& linear : step) total += linear.weightBytes(linear.storedRank());
  }
  return total;
}

class Runner {
 public:
  Runner(const Chain& chain, int columns) : columns_(columns) {
    for (const auto& step : chain) {
      x_.push_back(values(columns * step.front().inputs));
      for (const Linear& linear : step) y_.emplace_back(static_cast<size_t>(columns * linear.outputs));
    }
  }

  // Once over all copies. As in decoding, each step says what follows it.
  void run(const std::vector<Chain>& copies, int threads) {
    std::vector<LinearCall> calls = callsOf(copies.front().front(), 0);
    for (size_t copy = 0; copy < copies.size(); ++copy) {
      const Chain& chain = copies[copy];
      size_t output = 0;
      for (size_t step = 0; step < chain.size(); ++step) {
        output += chain[step].size();
        std::vector<LinearCall> next;
        if (step + 1 < chain.size()) {
          next = callsOf(chain[step + 1], output);
        } else if (copy + 1 < copies.size()) {
          next = callsOf(copies[copy + 1].front(), 0);
        }
        applyLinears(calls.data(), static_cast<int>(calls.size()), x_[step].data(), columns_, threads, scratch_,
                     next);
        calls = std::move(next);
      }
    }
  }

 private:
  std::vector<LinearCall> callsOf(const std::vector<Linear>& step, size_t output) {
    std::vector<LinearCall> calls;
    for (const Linear& linear : step) calls.push_back({&linear, linear.storedRank(), y_[output++].data()});
    return calls;
  }

  int columns_;
  std::vector<std::vector<float>> x_, y_;
  LinearScratch scratch_;
};

struct Timing {
  int threads, columns;
  std::vector<double> seconds, bandwidth;
};

void printList(const char* name, const std::vector<double>& list) {
  std::printf("\"%s\":[", name);
  for (size_t i = 0; i < list.size(); ++i) std::printf("%s%.9g", i == 0 ? "" : ",", list[i]);
  std::printf("]");
}

void measure(char** arguments) {
  Options options;
  options.kind = arguments[2];
  options.dtype = dtypeNamed(arguments[3]);
  options.rank = std::atoll(arguments[4]);
  const int rounds = std::atoi(arguments[7]);
  const auto least = static_cast<size_t>(std::atoll(arguments[8]));

  std::vector<Chain> copies;
  size_t bytes = 0;
  while (bytes < least) {
    copies.push_back(chainOf(arguments[1], options));
    bytes += bytesOf(copies.back());
  }
  std::vector<Timing> timings;
  for (const int threads : numbers(arguments[5])) {
    for (const int columns : numbers(arguments[6])) timings.push_back({threads, columns, {}, {}});
  }
  const ReadProbe probe(int64_t{1} << 29);
  for (int round = 0; round <= rounds; ++round) {
    for (Timing& timing : timings) {
      const double bandwidth = probe.measure(timing.threads, Job());
      Runner runner(copies.front(), timing.columns);
      const auto begin = std::chrono::steady_clock::now();
      runner.run(copies, timing.threads);
      const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
      if (round == 0) continue;  // warms up
      timing.seconds.push_back(spent.count());
      timing.bandwidth.push_back(bandwidth);
    }
  }
  std::printf("{\"target\":\"%s\",\"bytes\":%zu,\"copies\":%zu,\"timings\":[", cpu::kernels().target, bytes,
              copies.size());
  for (size_t i = 0; i < timings.size(); ++i) {
    std::printf("%s{\"threads\":%d,\"columns\":%d,", i == 0 ? "" : ",", timings[i].threads, timings[i].columns);
    printList("seconds", timings[i].seconds);
    std::printf(",");
    printList("bandwidth", timings[i].bandwidth);
    std::printf("}");
  }
  std::printf("]}\n");
}

}  // namespace

int main(int count, char** arguments) {
  const bool sgemm = count == 4 && std::strcmp(arguments[1], "sgemm") == 0;
  if (count != 9 && !sgemm) {
    std::fprintf(stderr,
                 "usage: %s CHAIN KIND DTYPE RANK THREADS COLUMNS ROUNDS BYTES, or sgemm THREADS ROUNDS\n",
                 arguments[0]);
    return 2;
  }
  try {
    if (sgemm) {
      measureSgemm(std::atoi(arguments[2]), std::atoi(arguments[3]));
    } else {
      measure(arguments);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
