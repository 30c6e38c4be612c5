#include <algorithm>
#include <utility>

#include "kernels/linears_shares.cuh"
#include "kernels/step_plan.h"

namespace flrc::gpu {
namespace {

int usedStrips(const StepPlan::Part& part) { return static_cast<int>(stripsOf(part.matrix.dtype, part.used)); }

template <typename T>
std::vector<T> joined(const std::vector<std::vector<T>>& lists) {
  std::vector<T> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

template <typename T>
std::vector<int32_t> firstOfEach(const std::vector<std::vector<T>>& lists) {
  std::vector<int32_t> first = {0};
  for (const auto& list : lists) first.push_back(first.back() + static_cast<int32_t>(list.size()));
  return first;
}

}  // namespace

void StepPlan::Stage::add(const Part& part) {
  Item item;
  item.parts = {part};
  item.parts.front().job.which = -1;
  for (int64_t line = 0; line <= part.count; ++line) item.strips.push_back(line * usedStrips(part));
  items_.push_back(std::move(item));
}

void StepPlan::Stage::gather(const std::vector<Part>& parts, int64_t outputs, const StepJob& job) {
  Item item{parts, {0}, true, job};
  for (size_t i = 0; i < parts.size(); ++i) item.parts[i].job.which = static_cast<int32_t>(i);
  // The input that all blocks have just had comes first, for it may still be there.
  std::stable_partition(item.parts.begin(), item.parts.end(),
                        [](const Part& part) { return part.job.source == StepSource::normed; });
  // Outputs take something in themselves, so that those without lines are shared as well.
  for (int64_t output = 0; output < outputs; ++output) {
    int64_t strips = 1;
    for (const Part& part : parts) {
      const auto* rest = part.rest;
      if (!rest || std::binary_search(rest->begin(), rest->end(), static_cast<int32_t>(output))) {
        strips += usedStrips(part);
      }
    }
    item.strips.push_back(item.strips.back() + strips);
  }
  items_.push_back(std::move(item));
}

void StepPlan::put(const Stage& stage) {
  int64_t all = 0, before = 0;
  for (const Stage::Item& item : stage.items_) all += item.strips.back();
  const auto blocks = static_cast<int64_t>(jobs_.size());
  for (const Stage::Item& item : stage.items_) {
    const auto lineAt = [&](int64_t block) {
      return std::lower_bound(item.strips.begin(), item.strips.end() - 1, all * block / blocks - before) -
             item.strips.begin();
    };
    for (int64_t b = 0; b < blocks; ++b) put(item, static_cast<size_t>(b), lineAt(b), lineAt(b + 1));
    before += item.strips.back();
  }
}

void StepPlan::put(const Stage::Item& item, size_t block, int64_t begin, int64_t end) {
  if (!item.gathered) return put(item.parts.front(), block, begin, end, false);
  if (begin == end) {
    for (const Part& part : item.parts) put(part, block, 0, 0, false);
    return;
  }
  StepJob job = item.job;
  job.begin = static_cast<int32_t>(begin);
  job.end = static_cast<int32_t>(end);
  job.kind = StepKind::expect;
  jobs_[block].push_back(job);
  for (const Part& part : item.parts) {
    const auto lineOf = [&](int64_t output) {
      if (!part.rest) return output;
      return std::lower_bound(part.rest->begin(), part.rest->end(), output) - part.rest->begin();
    };
    put(part, block, lineOf(begin), lineOf(end), true);
  }
  job.kind = StepKind::gather;
  jobs_[block].push_back(job);
  lastSent_[block] = job.sends.y;
  gathered_ = std::max(gathered_, static_cast<int>((end - begin) * static_cast<int64_t>(item.parts.size())));
}

void StepPlan::put(const Part& part, size_t block, int64_t begin, int64_t end, bool asked) {
  StepJob job = part.job;
  // Every block goes on with the residual stream, whether or not it has lines.
  const bool goesOn = job.source == StepSource::normed && inputsOf_[block] != job.input;
  if (begin == end && !goesOn && !asked) return;
  // Nobody gathers from it.
  if (!asked) job.which = -1;
  if (begin < end || goesOn) inputsOf_[block] = job.input;
  job.kind = StepKind::product;
  job.begin = static_cast<int32_t>(begin);
  job.end = static_cast<int32_t>(end);
  const StepPlan::Matrix& matrix = part.matrix;
  job.dtype = matrix.dtype;
  if (matrix.panels) {
    job.unitWords = stepUnitWords(matrix.dtype, part.used);
    job.storedRank = static_cast<int32_t>(matrix.stored);
    job.scale = matrix.scale;
    job.zero = matrix.zero;
  }
  job.strips = usedStrips(part);
  job.bits = linears::sliceBits(job.strips);
  jobs_[block].push_back(job);
  if (begin == end) return;
  if (job.t != nullptr) lastSent_[block] = std::max(lastSent_[block], job.sends.t);
  if (job.y != nullptr) lastSent_[block] = std::max(lastSent_[block], job.sends.y);
  const int64_t head = matrix.panels ? 0 : headStrips(matrix.dtype, matrix.stored);
  const int64_t strips = head + stripsOf(matrix.dtype, matrix.stored);
  StepLines lines{};
  lines.data = matrix.data;
  lines.lineBytes = static_cast<int32_t>(strips * kStripBytes);
  lines.headBytes = static_cast<int32_t>(head * kStripBytes);
  lines.begin = job.begin;
  lines.end = job.end;
  lines.unitWords = job.unitWords;
  lines.strips = static_cast<uint16_t>(job.strips);
  lines.bits = static_cast<uint8_t>(job.bits);
  lines.scaleBytes = static_cast<uint8_t>(matrix.panels ? 0 : scaleBytes(matrix.dtype));
  lines_[block].push_back(lines);
}

int StepPlan::attend(StepJob job) {
  const int parts = newExchange(), out = newExchange();
  job.sends = {parts, out};
  for (std::vector<StepJob>& jobs : jobs_) {
    job.kind = StepKind::attend;
    jobs.push_back(job);
    jobs.push_back(job);
    jobs.back().kind = StepKind::merge;
    jobs.back().wants = parts;
  }
  return out;
}

bool StepPlan::allSendAfter(int exchange) const {
  return std::all_of(lastSent_.begin(), lastSent_.end(), [exchange](int sent) { return sent > exchange; });
}

std::vector<StepJob> StepPlan::jobs() const { return joined(jobs_); }
std::vector<StepLines> StepPlan::lines() const { return joined(lines_); }
std::vector<int32_t> StepPlan::firstJobs() const { return firstOfEach(jobs_); }
std::vector<int32_t> StepPlan::firstLines() const { return firstOfEach(lines_); }

}  // namespace flrc::gpu
