#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"

// A small harness: TEST("name") { CHECK...; } in any file, run by check.cc. A failed check is reported with
// its place and values and the test goes on.
namespace check {

struct Test {
  const char* name;
  void (*body)();
};

std::vector<Test>& tests();

struct Registration {
  Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

// Safe from any thread.
void fail(const char* file, int line, const std::string& message);

template <typename Condition>
void isTrue(const char* file, int line, const char* text, const Condition& condition) {
  if (!condition) fail(file, line, std::string(text) + " does not hold");
}

template <typename A, typename B>
void equal(const char* file, int line, const char* text, const A& actual, const B& expected) {
  if (actual == expected) return;
  std::ostringstream message;
  message.precision(17);
  message << text << ": got " << actual << ", expected " << expected;
  fail(file, line, message.str());
}

// Written so that NaN on either side fails.
inline void near(const char* file, int line, const char* text, double actual, double expected,
                 double tolerance) {
  if (std::abs(actual - expected) <= tolerance) return;
  std::ostringstream message;
  message.precision(9);
  message << text << ": got " << actual << ", expected " << expected << ", off by "
          << std::abs(actual - expected) << " > " << tolerance;
  fail(file, line, message.str());
}

inline void atMost(const char* file, int line, const char* text, double actual, double limit) {
  if (actual <= limit) return;
  std::ostringstream message;
  message.precision(9);
  message << text << ": got " << actual << ", limit " << limit;
  fail(file, line, message.str());
}

template <typename Body>
void throwsCode(const char* file, int line, const char* text, const char* code, Body body) {
  try {
    body();
  } catch (const flrc::Error& error) {
    equal(file, line, text, std::string(error.code), std::string(code));
    return;
  }
  fail(file, line, std::string(text) + " did not throw " + code);
}

// A fixed sequence on every machine: values in [-1, 1), whole numbers in [0, below).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  double real() { return static_cast<double>(static_cast<int64_t>(next())) * 0x1p-63; }
  int64_t below(int64_t limit) { return static_cast<int64_t>((next() >> 1) % static_cast<uint64_t>(limit)); }
  // Roughly normal, of unit variance.
  double normal() {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += real();
    return sum / 2;
  }
  std::vector<float> floats(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = static_cast<float>(normal());
    return values;
  }

 private:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1du;
  }
  uint64_t state_;
};

}  // namespace check

#define CHECK_JOIN2(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN2(a, b)
#define TEST(name)                                                                                        \
  static void CHECK_JOIN(testBody, __LINE__)();                                                           \
  static const check::Registration CHECK_JOIN(testEntry, __LINE__)(name, CHECK_JOIN(testBody, __LINE__)); \
  static void CHECK_JOIN(testBody, __LINE__)()

#define CHECK(condition) check::isTrue(__FILE__, __LINE__, #condition, condition)
#define CHECK_EQUAL(actual, expected) check::equal(__FILE__, __LINE__, #actual, actual, expected)
#define CHECK_NEAR(actual, expected, tolerance) \
  check::near(__FILE__, __LINE__, #actual, actual, expected, tolerance)
#define CHECK_AT_MOST(actual, limit) check::atMost(__FILE__, __LINE__, #actual, actual, limit)
#define CHECK_THROWS(code, ...) check::throwsCode(__FILE__, __LINE__, #__VA_ARGS__, code, [&] { __VA_ARGS__; })
