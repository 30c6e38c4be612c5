#include "emulator/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <new>
#include <utility>

namespace flrc::emulator {
namespace {

// Pages that a kernel never touches cost nothing.
constexpr size_t kStackBytes = 256 * 1024;
// Stacks begin at different places of their pages and pieces: at the same ones, hundreds of them would drive
// each other out of the few lines of a cache that hold such addresses.
constexpr size_t kStackShift = 17 * 64, kStackShifts = 61;
size_t shifted = 0;

// What a fiber's first instruction finds; every later switch is a long jump, which spares the signal mask's
// system calls.
thread_local Fiber* starting = nullptr;

}  // namespace

Fiber::Fiber() {
  stack_ =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack_ == MAP_FAILED) throw std::bad_alloc();
}

Fiber::~Fiber() { munmap(stack_, kStackBytes); }

void Fiber::start(std::function<void()> body) {
  body_ = std::move(body);
  done_ = false;
}

void Fiber::loop() {
  Fiber& self = *starting;
  for (;;) {
    self.body_();
    self.done_ = true;
    self.suspend();
  }
}

void Fiber::resume() {
  if (_setjmp(resumer_) != 0) return;
  if (begun_) _longjmp(here_, 1);
  begun_ = true;
  starting = this;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack_;
  context.uc_stack.ss_size = kStackBytes - shifted++ % kStackShifts * kStackShift;
  context.uc_link = nullptr;
  makecontext(&context, &Fiber::loop, 0);
  setcontext(&context);
}

void Fiber::suspend() {
  if (_setjmp(here_) == 0) _longjmp(resumer_, 1);
}

}  // namespace flrc::emulator
