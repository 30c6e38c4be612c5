#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/loader.h"

// A folder of test/fixtures/pytorch: a tiny random model and what PyTorch says about it in float64
// (scripts/pytorch/model_fixtures.py). Found from the repository's root, where the tests run.
namespace fixture {

struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;

  int64_t extent(size_t axis) const { return shape.at(axis); }
};

struct Fixture {
  std::shared_ptr<const flrc::Model> model;  // f32
  std::vector<int32_t> tokens;               // [sequences, length]
  int64_t sequences = 0, length = 0;
  std::map<std::string, Array> expected;

  const Array& at(const std::string& name) const { return expected.at(name); }
};

// Every array of a safetensors file.
std::map<std::string, Array> arrays(const std::string& path);
// The f32 and i32 tensors of a safetensors file, for the loader.
std::vector<flrc::TensorSource> sources(const std::string& path);
std::vector<std::string> names();
// What TypeScript would tell the loader of a fixture's model.
flrc::ModelSpec spec(const std::string& name, int threads);
Fixture load(const std::string& name, int threads);
// A dense model's values in f32, with which nothing is rounded on the CPU.
std::shared_ptr<const flrc::Model> inF32(const flrc::Model& model);

// A model of two levels, cut from llama3-scaled: pivoted blocks, plain factors and dense projections
// (scripts/pytorch/recover_fixture.py).
inline constexpr const char* kTwoLevels = "test/fixtures/pytorch/recover.safetensors";
inline constexpr const char* kTwoLevelsOf = "llama3-scaled";
flrc::ModelSpec twoLevelsSpec(int threads);
std::shared_ptr<const flrc::Model> twoLevels(int threads);

}  // namespace fixture
