#include "runtime/gemm.h"

#ifdef __CUDACC__
#include <cublasLt.h>

#include <array>
#else
#include <algorithm>
#include <set>
#include <stdexcept>

#include "kernels/weights.cuh"
#endif

#include <map>
#include <tuple>

#include "runtime/notes.h"

namespace flrc::gpu {

namespace {

// Sizes and strides of a product.
using Form = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
Form formOf(const Product& p) { return {p.columns, p.inputs, p.outputs, p.ldx, p.ldw, p.ldy}; }

}  // namespace

#ifdef __CUDACC__

namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;

std::string failureAt(const char* step, cublasStatus_t status) {
  return std::string("cuBLAS fails at ") + step + " (" + std::to_string(status) + ")";
}

void checkBlas(cublasStatus_t status, const char* step) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw DeviceFull();
  throw Failure(BackendCode::device, failureAt(step, status));
}

// Bytes that a matrix and all its columns are aligned to. Ranks are any numbers.
template <typename T>
uint32_t alignmentOf(const T* first, std::initializer_list<int64_t> strides) {
  uintptr_t bits = reinterpret_cast<uintptr_t>(first) | 256;
  for (const int64_t stride : strides) bits |= static_cast<uintptr_t>(stride) * sizeof(T);
  return static_cast<uint32_t>(bits & (~bits + 1));
}

}  // namespace

struct Gemm::Library {
  gpu::Library file{kCublasLt};
  std::string missing = file.missing();
  cublasLtHandle_t handle = nullptr;
  Buffer<uint8_t> workspace;

  // What a product of one form needs, found once.
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    bool served = false;
  };
  // By form, and what W, x and y are aligned to.
  std::map<std::tuple<Form, uint32_t, uint32_t, uint32_t>, Plan> plans;

  // The functions by their own types.
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) createOperation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroyOperation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) setOperation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) createLayout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroyLayout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) createPreference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroyPreference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) setPreference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) chooseAlgorithm = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;

  Library() {
    if (!missing.empty()) return;
    file.find(create, "cublasLtCreate");
    file.find(destroy, "cublasLtDestroy");
    file.find(createOperation, "cublasLtMatmulDescCreate");
    file.find(destroyOperation, "cublasLtMatmulDescDestroy");
    file.find(setOperation, "cublasLtMatmulDescSetAttribute");
    file.find(createLayout, "cublasLtMatrixLayoutCreate");
    file.find(destroyLayout, "cublasLtMatrixLayoutDestroy");
    file.find(createPreference, "cublasLtMatmulPreferenceCreate");
    file.find(destroyPreference, "cublasLtMatmulPreferenceDestroy");
    file.find(setPreference, "cublasLtMatmulPreferenceSetAttribute");
    file.find(chooseAlgorithm, "cublasLtMatmulAlgoGetHeuristic");
    file.find(matmul, "cublasLtMatmul");
    workspace = Buffer<uint8_t>(kWorkspaceBytes);
    const cublasStatus_t status = create(&handle);
    if (status == CUBLAS_STATUS_SUCCESS) return;
    handle = nullptr;
    if (status == CUBLAS_STATUS_ALLOC_FAILED) throw DeviceFull();
    workspace = {};
    missing = failureAt("cublasLtCreate", status);
    note(missing + " and is left out, so that prompts take longer");
  }

  ~Library() {
    for (auto& [key, plan] : plans) release(plan);
    if (handle) destroy(handle);
  }

  void release(const Plan& plan) const {
    for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.y}) {
      if (layout) destroyLayout(layout);
    }
    if (plan.operation) destroyOperation(plan.operation);
  }

  cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t ld) {
    cublasLtMatrixLayout_t made = nullptr;
    checkBlas(createLayout(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), ld),
              "a layout");
    return made;
  }

  const Plan& planOf(const Product& p) {
    const uint32_t wBytes = alignmentOf(p.w, {p.ldw}), xBytes = alignmentOf(p.x, {p.ldx});
    const uint32_t yBytes = alignmentOf(p.y, {p.ldy});
    const std::tuple key(formOf(p), wBytes, xBytes, yBytes);
    const auto at = plans.find(key);
    if (at != plans.end()) return at->second;
    Plan plan;
    try {
      makePlan(plan, p, {wBytes, xBytes, yBytes, yBytes});
    } catch (...) {
      release(plan);
      throw;
    }
    return plans.emplace(key, plan).first->second;
  }

  // cuBLAS has matrices by column: y^T [outputs, columns] = W^T x^T. `alignments` are those of W, x, and y
  // twice, which is read and written.
  void makePlan(Plan& plan, const Product& p, const std::array<uint32_t, 4>& alignments) {
    checkBlas(createOperation(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "an operation");
    const cublasOperation_t turned = CUBLAS_OP_T;
    checkBlas(setOperation(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned),
              "an operation");
    plan.w = layout(CUDA_R_16BF, p.inputs, p.outputs, p.ldw);
    plan.x = layout(CUDA_R_16BF, p.inputs, p.columns, p.ldx);
    plan.y = layout(CUDA_R_32F, p.outputs, p.columns, p.ldy);
    cublasLtMatmulPreference_t preference = nullptr;
    checkBlas(createPreference(&preference), "a preference");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      return setPreference(preference, attribute, &value, sizeof value);
    };
    cublasStatus_t status = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    constexpr cublasLtMatmulPreferenceAttributes_t kAlignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (size_t i = 0; i < alignments.size() && status == CUBLAS_STATUS_SUCCESS; ++i) {
      status = set(kAlignments[i], alignments[i]);
    }
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = chooseAlgorithm(handle, plan.operation, plan.w, plan.x, plan.y, plan.y, preference, 1, &result,
                               &found);
    }
    destroyPreference(preference);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) checkBlas(status, "choosing an algorithm");
    plan.served = status == CUBLAS_STATUS_SUCCESS && found > 0;
    plan.algorithm = result.algo;
  }
};

void Gemm::multiply(Queue& queue, const Product& p) {
  const Library::Plan& plan = library_->planOf(p);
  if (!plan.served) throw Unserved();
  const float one = 1, kept = p.add ? 1 : 0;
  checkBlas(library_->matmul(library_->handle, plan.operation, &one, p.w, plan.w, p.x, plan.x, &kept, p.y,
                             plan.y, p.y, plan.y, &plan.algorithm, library_->workspace.global(),
                             kWorkspaceBytes, queue.stream()),
            "a product");
}

const std::string& Gemm::missing() const { return library_->missing; }
size_t Gemm::plans() const { return library_->plans.size(); }

#else

namespace {

constexpr int kThreads = 64;

FLRC_KERNEL void productKernel(FLRC_PARAMS(Product) p) {
  const int64_t column = blockX();
  for (int64_t output = threadIndex(); output < p.outputs; output += kThreads) {
    float sum = 0;
    for (int64_t i = 0; i < p.inputs; ++i) {
      sum = fusedMultiplyAdd(widen(p.x[column * p.ldx + i]), widen(p.w[output * p.ldw + i]), sum);
    }
    const int64_t to = column * p.ldy + output;
    p.y[to] = p.add ? p.y[to] + sum : sum;
  }
}

}  // namespace

struct Gemm::Library {
  std::string missing;
  std::set<Form> forms;
};

void Gemm::multiply(Queue& queue, const Product& product) {
  // As cuBLAS does.
  if (std::min({product.columns, product.inputs, product.outputs}) < 1 || product.ldy < product.outputs) {
    throw std::invalid_argument("a product of nothing");
  }
  library_->forms.insert(formOf(product));
  if (emulatedUnserved && emulatedUnserved(product)) throw Unserved();
  LaunchShape shape;
  shape.gridX = static_cast<unsigned>(product.columns);
  shape.threads = kThreads;
  launch(queue.stream(), shape, productKernel, product);
}

const std::string& Gemm::missing() const { return library_->missing; }
size_t Gemm::plans() const { return library_->forms.size(); }

#endif

Gemm::Gemm() : library_(std::make_unique<Library>()) {}
Gemm::~Gemm() = default;

}  // namespace flrc::gpu
