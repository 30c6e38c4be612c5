#include <cublas_v2.h>

#include <stdexcept>

#include "bench/cublas.h"
#include "runtime/libraries.h"

namespace bench {
namespace {

// Its version is that of CUDA.
constexpr flrc::gpu::LibrarySpec kCublas = {"cuBLAS", "libcublas.so.13", "cublasGetCudartVersion", true, 13000,
                                            14000};
// What it recommends for Hopper.
constexpr size_t kWorkspaceBytes = 32 << 20;

void checkBlas(cublasStatus_t status, const char* step) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("cuBLAS fails at ") + step + " (" + std::to_string(status) + ")");
}

}  // namespace

struct Cublas::Functions {
  flrc::gpu::Library file{kCublas};
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) setStream = nullptr;
  decltype(&cublasSetWorkspace_v2) setWorkspace = nullptr;
  decltype(&cublasGemmEx_64) gemm = nullptr;
  decltype(&cublasTSTgemvStridedBatched_64) gemv = nullptr;
  cublasHandle_t handle = nullptr;
  test::Array<uint8_t> workspace{kWorkspaceBytes};
};

const char* Cublas::nameOf(Call call) {
  return call == Call::gemm ? "cublasGemmEx" : "cublasTSTgemvStridedBatched";
}

Cublas::Cublas(test::Device& device) : functions_(std::make_unique<Functions>()) {
  Functions& f = *functions_;
  missing_ = f.file.missing();
  if (!missing_.empty()) return;
  f.file.find(f.create, "cublasCreate_v2");
  f.file.find(f.destroy, "cublasDestroy_v2");
  f.file.find(f.setStream, "cublasSetStream_v2");
  f.file.find(f.setWorkspace, "cublasSetWorkspace_v2");
  f.file.find(f.gemm, "cublasGemmEx_64");
  f.file.find(f.gemv, "cublasTSTgemvStridedBatched_64");
  checkBlas(f.create(&f.handle), "cublasCreate");
  checkBlas(f.setStream(f.handle, device.stream()), "cublasSetStream");
  // Its own would be allocated while launches are captured.
  checkBlas(f.setWorkspace(f.handle, f.workspace.global(), kWorkspaceBytes), "cublasSetWorkspace");
}

Cublas::~Cublas() {
  if (functions_->handle) functions_->destroy(functions_->handle);
}

void Cublas::multiply(Call call, const uint16_t* w, int64_t outputs, int64_t inputs, const uint16_t* x,
                      uint16_t* y) {
  Functions& f = *functions_;
  const float one = 1, none = 0;
  // cuBLAS has matrices by column: W is one of [inputs, outputs], to be transposed.
  if (call == Call::gemm) {
    checkBlas(
        f.gemm(f.handle, CUBLAS_OP_T, CUBLAS_OP_N, outputs, 1, inputs, &one, w, CUDA_R_16BF, inputs, x,
               CUDA_R_16BF, inputs, &none, y, CUDA_R_16BF, outputs, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        nameOf(call));
  } else {
    const auto half = [](const uint16_t* bits) { return reinterpret_cast<const __nv_bfloat16*>(bits); };
    checkBlas(f.gemv(f.handle, CUBLAS_OP_T, inputs, outputs, &one, half(w), inputs, 0, half(x), 1, 0, &none,
                     reinterpret_cast<__nv_bfloat16*>(y), 1, 0, 1),
              nameOf(call));
  }
}

}  // namespace bench
