#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/clocks.h"
#include "emulator/fiber.h"
#include "emulator/pointer.h"
#include "kernels/shape.h"

namespace flrc::emulator {

inline constexpr int kWarpThreads = 32;
inline constexpr int kWarpgroupThreads = 128;
// Shared memory is watched by words, as its banks are: threads that write halves of one word are in each
// other's way.
inline constexpr size_t kSharedCell = 4;
// Asynchronous copies are done by nobody's thread: each mbarrier of a block has one of its own.
inline constexpr uint32_t kMostThreads = 1024, kCopiersPerBlock = 80;
static_assert(kMostThreads + kCopiersPerBlock <= 1u << kThreadBits);

// What a seed decides, many times for every switch of threads: splitmix64 (Steele, Lea and Flood, 2014).
class Draws {
 public:
  using result_type = uint64_t;
  explicit Draws(uint64_t seed) : state_(seed) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    uint64_t bits = state_ += 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
  }
  // 0 to limit - 1.
  size_t below(size_t limit) { return ((*this)() >> 32) * limit >> 32; }

 private:
  uint64_t state_;
};

// What all who came by a place knew when they did, for those who come by later. Most come with the same
// knowledge, that of their last barrier, and what was done with it once need not be done again.
class Knowledge {
 public:
  // Of the thread, itself included.
  void add(const Thread& thread);
  void add(uint32_t thread, uint32_t clock);
  void teach(Thread& thread);

 private:
  Clocks clocks_;
  Known added_;  // the last one
  // The last one that came to learn since something was added, and what it left with.
  Known learner_, taught_;
};

using gpu::LaunchShape;

struct Block;
struct Launch;
struct Thread;
struct Unit;

struct Barrier {
  std::vector<Thread*> waiting;
};

struct Warp {
  using Operation = void (*)(void* const* lanes);
  Operation operation = nullptr;
  void* lanes[kWarpThreads] = {};
  int arrived = 0;
};

struct Warpgroup {
  Barrier barrier;
  Warp::Operation operation = nullptr;
  void* threads[kWarpgroupThreads] = {};
};

struct Thread {
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint32_t index = 0;  // in its block
  uint32_t id = 0;     // in its launch
  uint32_t launchSerial = 0;
  uint32_t clock = 1;
  Known known;
  uint32_t ordered = 0;  // launches up to this one are complete for this thread
  bool triggered = false;
  int barriers = 0;  // of the block and the cluster, passed
  int waits = 0;     // for mbarriers, likewise
  Fiber* fiber = nullptr;
  const char* waitsFor = nullptr;
  std::function<bool()> ready;  // empty: whoever it waits for wakes it

  struct Copy {
    Memory *from, *to;
    const uint8_t* source;
    uint8_t* target;
    size_t bytes, filled;  // bytes read, and bytes written (the rest are zeros)
  };
  std::vector<std::vector<Copy>> groups = {{}};  // of cp.async, the open one last

  struct Product {
    Pointer<const uint8_t> a, b;
    bool add, wide, rightDown;
  };
  std::vector<Product> products;  // of its warpgroup, not yet waited for

  // What it does from here on is at another time.
  void tick() {
    ++clock;
    moment_ = 0;
  }
  uint32_t moment() {
    if (moment_ == 0) moment_ = moments.add({launchSerial, id, clock});
    return moment_;
  }

 private:
  uint32_t moment_ = 0;
};

// An mbarrier: arrivals and bytes still to come in this phase.
struct PhaseBarrier {
  uint32_t expected = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0, copier = 0, copierClock = 0, launchSerial = 0;
  Knowledge known;  // of all who arrived, ever
};

struct Block {
  Launch* launch = nullptr;
  Unit* unit = nullptr;
  uint32_t serial = 0, index = 0;
  std::vector<Block*>* cluster = nullptr;
  Barrier* clusterBarrier = nullptr;
  std::unique_ptr<Memory> shared;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::vector<Barrier> warpBarriers;
  Barrier barrier;
  std::unordered_map<const void*, PhaseBarrier> phases;
  uint32_t copiers = 0;
  size_t running = 0;
};

struct Unit {  // a cluster, or the whole grid of a cooperative launch
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::vector<Block*>> clusters;
  std::vector<Barrier> clusterBarriers;
  size_t running = 0;
};

struct Launch {
  // How many there are, queued or running, on all machines.
  static inline size_t all = 0;
  Launch() { ++all; }
  ~Launch() { --all; }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  LaunchShape shape;
  std::function<void()> body;
  uint32_t serial = 0;
  std::vector<uint32_t> order;  // of the units
  size_t next = 0, unfinished = 0, untriggered = 0;
  std::vector<std::unique_ptr<Unit>> units;
  // Of `units`, those with blocks that run.
  size_t live = 0;
  Known none;
  std::unordered_map<const void*, Knowledge> released;

  bool started() const { return !units.empty(); }
};

// What a thread may wait for, and others bring about: the end of launches, that of mbarriers' phases, and
// values written by atomics.
enum class Change : uint8_t { launch = 1, phase = 2, value = 4 };

// Runs launches as a GPU's stream does, one host thread in all. Which thread runs next is drawn, which blocks
// run at once too, and asynchronous copies land when the draw says so: a seed decides everything.
class Machine {
 public:
  explicit Machine(uint64_t seed) : random_(seed) {}

  // Queued; `body` is what each thread runs.
  void launch(const LaunchShape& shape, std::function<void()> body);
  // Runs what is queued. Throws the first Fault and forgets the rest.
  void synchronise();

  // Blocks that a cluster may have. Small parts of a chip have room for fewer.
  unsigned mostCluster = 16;
  // The nth time that a thread comes to a barrier of its block or cluster it goes past: for tests that every
  // barrier is needed.
  int dropBarrier = -1;
  // How many barriers of blocks and clusters the longest thread passed since the machine was made.
  int mostBarriers = 0;
  // The same of one thread of each block, and its waits for mbarriers.
  struct DroppedWait {
    int thread = -1, nth = -1;
  } dropWait;
  std::unordered_map<int, int> mostWaits;

  // For the running thread:
  static Thread& thread() {
    if (running == nullptr) throw Fault("device code outside a kernel");
    return *running;
  }
  static Machine& current() { return *machine; }
  void syncBlock();
  void syncWarp();
  void syncCluster();
  void warpOperation(Warp::Operation operation, void* lane);
  // The same of 128 threads, whom it puts in order as a barrier does.
  void warpgroupOperation(Warp::Operation operation, void* thread);
  void waitUntil(const char* what, Change by, std::function<bool()> ready);
  // Who waits for that is looked at again.
  void changed(Change what) { changes_ |= static_cast<uint8_t>(what); }
  void dependentWait();
  void dependentTrigger();
  void release(const void* address);
  void acquire(const void* address);
  // A block of the cluster, and an mbarrier of it.
  Block& peer(int rank);
  PhaseBarrier& phase(const void* address, int rank);
  PhaseBarrier& phase(const void* address);
  void initPhase(const void* address, uint32_t expected);
  void arrive(PhaseBarrier& barrier, uint32_t arrivals);
  void wait(PhaseBarrier& barrier, uint32_t parity);
  void bulkCopy(const Thread::Copy& copy, PhaseBarrier& barrier);
  void commitCopies();
  void waitCopies(size_t groupsLeft);
  static std::string place();

 private:
  void admit();
  void startUnit(Launch& launch);
  void run(Thread& thread);
  void finish(Thread& thread);
  void meet(Barrier& barrier, size_t expected, const char* what);
  void suspend(const char* what);
  bool wakeWaiting(unsigned changes);
  bool landBulkCopy();
  void land(const Thread::Copy& copy, uint32_t moment);
  void abandon();
  bool complete(uint32_t serial) const;
  [[noreturn]] void reportDeadlock() const;

  struct BulkCopy {
    Thread::Copy copy;
    PhaseBarrier* barrier;
  };
  static inline Machine* machine = nullptr;
  static inline Thread* running = nullptr;
  // Of all machines: tests make thousands of those, and a stack takes long to make.
  static inline std::vector<std::unique_ptr<Fiber>> fibers;
  static inline std::vector<Fiber*> idle;
  Draws random_;
  std::deque<std::unique_ptr<Launch>> queue_;
  std::vector<Thread*> ready_;
  struct Waiting {
    Thread* thread;
    Change by;
  };
  std::vector<Waiting> waiting_;
  uint8_t changes_ = 0;  // since those who wait were looked at
  std::vector<BulkCopy> bulk_;
  std::exception_ptr fault_;
  bool abandoning_ = false;
};

}  // namespace flrc::emulator
