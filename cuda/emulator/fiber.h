#pragma once

#include <csetjmp>
#include <functional>
#include <memory>

namespace flrc::emulator {

// A stack of its own on which one device thread runs until it waits for others. Reused from thread to thread.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Has the next resume() run `body`, which must not throw; only once the one before is done.
  void start(std::function<void()> body);
  // Runs until suspend() or the body's end. Not to be called on a fiber.
  void resume();
  // Back to resume(), from the running fiber.
  void suspend();
  bool done() const { return done_; }

 private:
  static void loop();

  std::function<void()> body_;
  bool done_ = true, begun_ = false;
  void* stack_;
  jmp_buf here_, resumer_;
};

}  // namespace flrc::emulator
