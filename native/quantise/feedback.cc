#include "quantise/feedback.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "linalg/gemm.h"
#include "quantise/grid.h"

namespace flrc {
namespace {

// Rows whose feedback goes through one product.
constexpr int64_t kRowBlock = 32;

std::vector<int64_t> inTurn(const Metric* metric, int64_t n) {
  if (metric != nullptr) return metric->order;
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// One group of one row, in the order of rounding.
struct GroupProblem {
  int64_t count;
  const double* original;  // [count]
  const double* target;    // [count]: what would make up for all errors outside the group
  const double*
      feedback;          // [count, kGroup]: R_jl / R_ll, what an error of entry j asks of entry l > j; or null
  const double* weight;  // [count]: R_jj^2
};

// Returns the group's weighed error; no longer of use once it reaches `limit`.
double roundGroup(const GroupProblem& problem, const Grid& grid, double limit, int* q) {
  const double scale = grid.scale(), inverse = scale > 0 ? 1 / scale : 0;
  double target[kGroup], sum = 0;
  std::copy_n(problem.target, problem.count, target);
  for (int64_t j = 0; j < problem.count && sum < limit; ++j) {
    const double steps = std::nearbyint(target[j] * inverse) + grid.zero;
    q[j] = static_cast<int>(std::clamp<double>(steps, grid.least, grid.most));
    const double value = grid.value(q[j]), off = value - target[j];
    sum += off * off * problem.weight[j];
    if (problem.feedback == nullptr) continue;
    const double error = value - problem.original[j];
    const double* asks = problem.feedback + j * kGroup;
    for (int64_t l = j + 1; l < problem.count; ++l) target[l] -= error * asks[l];
  }
  return sum;
}

// W, L and R in the order of rounding. Entry (i, j) of Rl^T E Rr, the weighed error, sums over errors of rows
// up to i and columns up to j: given all others, rounding (i, j) makes it as small as it can be.
class Feedback {
 public:
  Feedback(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype, const Metric* left,
           const Metric* right, const Job& job)
      : rows_(rows),
        cols_(cols),
        dtype_(dtype),
        left_(left ? left->root.data() : nullptr),
        right_(right ? right->root.data() : nullptr),
        job_(job),
        rowOrder_(inTurn(left, rows)),
        colOrder_(inTurn(right, cols)),
        w_(static_cast<size_t>(rows * cols)),
        errors_(right ? w_.size() : 0),
        passed_(static_cast<size_t>(rows * kGroup)),
        above_(static_cast<size_t>(kRowBlock * kGroup)) {
    for (int64_t i = 0; i < rows; ++i) {
      const double* from = w.data() + rowOrder_[static_cast<size_t>(i)] * cols;
      for (int64_t j = 0; j < cols; ++j) {
        const double value = from[colOrder_[static_cast<size_t>(j)]];
        if (!std::isfinite(value)) throw Error(code::numeric, "a weight to quantise is not finite");
        w_[static_cast<size_t>(i * cols + j)] = value;
      }
    }
    result_.values.resize(w_.size());
    result_.rows.assign(static_cast<size_t>(rows), emptyStoredRow(cols, dtype));
  }

  RoundedMatrix run() {
    for (int64_t first = 0; first < cols_; first += count_) {
      job_.check();
      begin(first);
      for (int64_t row = 0; row < rows_; row += kRowBlock) roundBlock(row, std::min(kRowBlock, rows_ - row));
    }
    return std::move(result_);
  }

 private:
  // The group of columns that begins at `first`: E Rr in it, as earlier columns leave it, to `passed_`.
  void begin(int64_t first) {
    first_ = first;
    group_ = colOrder_[static_cast<size_t>(first)] / kGroup;
    count_ = std::min(kGroup, cols_ - group_ * kGroup);
    for (int64_t j = 0; j < count_; ++j) {
      const double diagonal = right_ ? right_[(first + j) * cols_ + first + j] : 1;
      weight_[j] = diagonal * diagonal;
      inverse_[j] = 1 / diagonal;
      for (int64_t i = 0; right_ && i < j; ++i) {
        feedback_[i * kGroup + j] = right_[(first + i) * cols_ + first + j] / diagonal;
      }
    }
    std::fill(passed_.begin(), passed_.end(), 0.0);
    if (right_ && first > 0) {
      gemm(false, false, rows_, count_, first, 1.0, errors_.data(), cols_, right_ + first, cols_, 0.0,
           passed_.data(), kGroup);
    }
  }

  void roundBlock(int64_t first, int64_t height) {
    std::fill(above_.begin(), above_.end(), 0.0);
    if (left_ && first > 0) {
      gemm(true, false, height, count_, first, 1.0, left_ + first, rows_, passed_.data(), kGroup, 0.0,
           above_.data(), kGroup);
    }
    for (int64_t row = first; row < first + height; ++row) {
      double* above = above_.data() + (row - first) * kGroup;
      for (int64_t before = first; left_ && before < row; ++before) {
        const double factor = left_[before * rows_ + row];
        const double* from = passed_.data() + before * kGroup;
        for (int64_t j = 0; j < count_; ++j) above[j] += factor * from[j];
      }
      roundOne(row, above);
    }
  }

  void roundOne(int64_t row, const double* above) {
    const double byLeft = left_ ? 1 / left_[row * rows_ + row] : 0;
    double* passed = passed_.data() + row * kGroup;
    const double* original = w_.data() + row * cols_ + first_;
    double target[kGroup];
    for (int64_t j = 0; j < count_; ++j) {
      target[j] = original[j] - (passed[j] + above[j] * byLeft) * inverse_[j];
    }
    const GroupProblem problem = {count_, original, target, right_ ? feedback_ : nullptr, weight_};
    Grid chosen;
    int best[kGroup] = {}, q[kGroup];
    double least = std::numeric_limits<double>::infinity();
    for (const Grid& grid : candidateGrids(target, count_, dtype_)) {
      const double error = roundGroup(problem, grid, least, q);
      if (!(error < least)) continue;
      least = error;
      chosen = grid;
      std::copy_n(q, count_, best);
    }
    keep(row, chosen, best);
    for (int64_t j = 0; j < count_; ++j) {
      const double error = chosen.value(best[j]) - original[j];
      if (right_ == nullptr) {
        passed[j] = error;
        continue;
      }
      errors_[static_cast<size_t>(row * cols_ + first_ + j)] = error;
      const double* asks = right_ + (first_ + j) * cols_ + first_;
      for (int64_t l = j; l < count_; ++l) passed[l] += error * asks[l];
    }
  }

  void keep(int64_t row, const Grid& grid, const int* q) {
    const int64_t to = rowOrder_[static_cast<size_t>(row)];
    int inPlace[kGroup];
    for (int64_t j = 0; j < count_; ++j) {
      const int64_t col = colOrder_[static_cast<size_t>(first_ + j)];
      inPlace[col - group_ * kGroup] = q[j];
      result_.values[static_cast<size_t>(to * cols_ + col)] = grid.value(q[j]);
    }
    storeGroup(result_.rows[static_cast<size_t>(to)], group_, grid, inPlace, count_, dtype_);
  }

  const int64_t rows_, cols_;
  const Dtype dtype_;
  const double *left_, *right_;
  const Job& job_;
  const std::vector<int64_t> rowOrder_, colOrder_;
  std::vector<double> w_, errors_;
  std::vector<double> passed_;  // [rows, kGroup]: E Rr in the group's columns
  std::vector<double> above_;   // [kRowBlock, kGroup]: what rows above add to Rl^T of that
  // The group at hand.
  int64_t first_ = 0, group_ = 0, count_ = 0;
  double feedback_[kGroup * kGroup] = {}, weight_[kGroup] = {}, inverse_[kGroup] = {};
  RoundedMatrix result_;
};

}  // namespace

RoundedMatrix roundAgainst(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype,
                           const Metric* left, const Metric* right, const Job& job) {
  return Feedback(w, rows, cols, dtype, left, right, job).run();
}

RoundedMatrix roundPlain(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype) {
  const std::vector<float> narrow(w.begin(), w.end());
  const RowMatrix matrix = makeRows(narrow.data(), rows, cols, cols, dtype);
  RoundedMatrix out;
  out.rows.resize(static_cast<size_t>(rows));
  out.values.resize(w.size());
  std::vector<float> values(static_cast<size_t>(cols));
  for (int64_t i = 0; i < rows; ++i) {
    storeRow(matrix, i, out.rows[static_cast<size_t>(i)]);
    getRow(matrix, i, values.data());
    std::copy(values.begin(), values.end(), out.values.begin() + i * cols);
  }
  return out;
}

RoundedMatrix roundRows(const std::vector<double>& w, int64_t rows, int64_t cols, Dtype dtype,
                        const Metric& input, const Job& job) {
  RoundedMatrix best = roundAgainst(w, rows, cols, dtype, nullptr, &input, job);
  RoundedMatrix plain = roundPlain(w, rows, cols, dtype);
  const auto squares = [&](const RoundedMatrix& rounded) {
    std::vector<double> errors(w.size()), sums(static_cast<size_t>(rows));
    std::transform(w.begin(), w.end(), rounded.values.begin(), errors.begin(), std::minus<>());
    const std::vector<double> y = weighed(input, rows, errors);
    for (int64_t i = 0; i < rows; ++i) {
      sums[static_cast<size_t>(i)] =
          std::inner_product(y.begin() + i * cols, y.begin() + (i + 1) * cols, y.begin() + i * cols, 0.0);
    }
    return sums;
  };
  const std::vector<double> ours = squares(best), theirs = squares(plain);
  for (int64_t i = 0; i < rows; ++i) {
    const auto at = static_cast<size_t>(i);
    if (!(theirs[at] < ours[at])) continue;
    std::swap(best.rows[at], plain.rows[at]);
    std::copy_n(plain.values.begin() + i * cols, cols, best.values.begin() + i * cols);
  }
  return best;
}

}  // namespace flrc
