#include "emulated.h"

#include <cstdio>
#include <filesystem>
#include <string>

#include "backend/plugin.h"

namespace emulated {

const flrc::Backend* plugin() {
  const std::string file = std::filesystem::absolute("build/cuda-tests/flrc_cuda.so");
  if (std::filesystem::exists(file)) return &flrc::openPlugin(file);
  std::printf("skipped: %s is not built\n", file.c_str());
  return nullptr;
}

Pair both(const flrc::Backend& plugin, flrc::ModelSpec spec, flrc::Dtype dtype) {
  spec.dtype = dtype;
  const std::shared_ptr<const flrc::Model> cpu = loadModel(spec, flrc::Job());
  spec.backend = &plugin;
  return {cpu, loadModel(spec, flrc::Job())};
}

}  // namespace emulated
