#include <algorithm>
#include <cstring>
#include <utility>

#include "emulator/machine.h"

// What orders threads, and what they know of each other by it.

namespace flrc::emulator {
namespace {

PhaseBarrier& phaseOf(Block& block, const void* address) {
  const auto found = block.phases.find(address);
  if (found == block.phases.end()) throw Fault(Machine::place() + ": an mbarrier that nobody has initialised");
  return found->second;
}

void completePhase(PhaseBarrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.expected;
  ++barrier.phase;
  Machine::current().changed(Change::phase);
}

}  // namespace

void Knowledge::add(const Thread& thread) {
  if (thread.known != added_) clocks_.raise(*thread.known);
  added_ = thread.known;
  add(thread.id, thread.clock);
}

void Knowledge::add(uint32_t thread, uint32_t clock) {
  clocks_.raise(thread, clock);
  learner_ = nullptr;
}

void Knowledge::teach(Thread& thread) {
  if (thread.known != learner_) {
    auto joined = std::make_shared<Clocks>(*thread.known);
    joined->raise(clocks_);
    learner_ = thread.known;
    taught_ = std::move(joined);
  }
  thread.known = taught_;
}

void Machine::meet(Barrier& barrier, size_t expected, const char* what) {
  const Thread& self = thread();
  barrier.waiting.push_back(&thread());
  if (barrier.waiting.size() < expected) return suspend(what);
  auto joined = std::make_shared<Clocks>(*self.known);
  // Most came with the same knowledge, that of the barrier before.
  const void* last = self.known.get();
  for (const Thread* other : barrier.waiting) {
    if (other->known.get() != last) joined->raise(*other->known);
    last = other->known.get();
  }
  for (const Thread* other : barrier.waiting) joined->raise(other->id, other->clock);
  for (Thread* other : barrier.waiting) {
    other->known = joined;
    other->tick();
    ready_.push_back(other);
  }
  barrier.waiting.clear();
  suspend(what);
}

void Machine::syncBlock() {
  if (thread().barriers++ == dropBarrier) return;
  meet(thread().block->barrier, thread().block->threads.size(), "the block's barrier");
}

void Machine::syncWarp() {
  meet(thread().block->warpBarriers[thread().index / kWarpThreads], kWarpThreads, "their warp's barrier");
}

void Machine::syncCluster() {
  if (thread().barriers++ == dropBarrier) return;
  const auto& cluster = *thread().block->cluster;
  meet(*thread().block->clusterBarrier, cluster.size() * thread().block->threads.size(),
       "the cluster's barrier");
}

void Machine::warpOperation(Warp::Operation operation, void* lane) {
  Warp& warp = *thread().warp;
  if (warp.arrived > 0 && warp.operation != operation) {
    throw Fault(place() + ": the lanes of a warp meet in different operations");
  }
  warp.operation = operation;
  warp.lanes[thread().index % kWarpThreads] = lane;
  if (++warp.arrived < kWarpThreads) return suspend("the other lanes of a warp's operation");
  operation(warp.lanes);
  warp.arrived = 0;
  const uint32_t first = thread().index / kWarpThreads * kWarpThreads;
  for (uint32_t t = first; t < first + kWarpThreads; ++t) {
    if (t != thread().index) ready_.push_back(&thread().block->threads[t]);
  }
}

void Machine::warpgroupOperation(Warp::Operation operation, void* of) {
  Warpgroup& group = thread().block->warpgroups[thread().index / kWarpgroupThreads];
  if (!group.barrier.waiting.empty() && group.operation != operation) {
    throw Fault(place() + ": the threads of a warpgroup meet in different operations");
  }
  group.operation = operation;
  group.threads[thread().index % kWarpgroupThreads] = of;
  if (group.barrier.waiting.size() + 1 == kWarpgroupThreads) operation(group.threads);
  meet(group.barrier, kWarpgroupThreads, "their warpgroup's barrier");
}

void Machine::dependentWait() {
  const uint32_t before = thread().block->launch->serial - 1;
  waitUntil("the launch ahead of theirs", Change::launch, [this, before] { return complete(before); });
  thread().ordered = before;
}

void Machine::dependentTrigger() {
  if (thread().triggered) return;
  thread().triggered = true;
  --thread().block->launch->untriggered;
}

void Machine::release(const void* address) {
  thread().block->launch->released[address].add(thread());
  thread().tick();
}

void Machine::acquire(const void* address) { thread().block->launch->released[address].teach(thread()); }

void Machine::initPhase(const void* address, uint32_t expected) {
  Block& block = *thread().block;
  if (block.copiers == kCopiersPerBlock) throw Fault(place() + ": too many mbarriers");
  PhaseBarrier barrier;
  barrier.expected = barrier.pending = expected;
  barrier.copier = threadId(block.index, static_cast<uint32_t>(block.threads.size()) + block.copiers++);
  barrier.launchSerial = block.launch->serial;
  block.phases[address] = barrier;
}

Block& Machine::peer(int rank) {
  const auto& cluster = *thread().block->cluster;
  if (rank < 0 || static_cast<size_t>(rank) >= cluster.size()) {
    throw Fault(place() + ": block " + std::to_string(rank) + " of a cluster of " +
                std::to_string(cluster.size()));
  }
  return *cluster[static_cast<size_t>(rank)];
}

PhaseBarrier& Machine::phase(const void* address, int rank) { return phaseOf(peer(rank), address); }

PhaseBarrier& Machine::phase(const void* address) { return phaseOf(*thread().block, address); }

void Machine::arrive(PhaseBarrier& barrier, uint32_t arrivals) {
  if (arrivals > barrier.pending) throw Fault(place() + ": more arrivals at an mbarrier than it expects");
  barrier.known.add(thread());
  thread().tick();
  barrier.pending -= arrivals;
  completePhase(barrier);
}

void Machine::wait(PhaseBarrier& barrier, uint32_t parity) {
  if (thread().waits++ == dropWait.nth && static_cast<int>(thread().index) == dropWait.thread) return;
  waitUntil("an mbarrier's phase", Change::phase, [&barrier, parity] { return barrier.phase % 2 != parity; });
  barrier.known.teach(thread());
}

void Machine::bulkCopy(const Thread::Copy& copy, PhaseBarrier& barrier) { bulk_.push_back({copy, &barrier}); }

void Machine::land(const Thread::Copy& copy, uint32_t moment) {
  std::memcpy(copy.target, copy.source, copy.bytes);
  std::memset(copy.target + copy.bytes, 0, copy.filled - copy.bytes);
  copy.to->landCopy(copy.target, copy.filled, moment);
}

bool Machine::landBulkCopy() {
  if (bulk_.empty()) return false;
  std::swap(bulk_[random_.below(bulk_.size())], bulk_.back());
  const BulkCopy landed = bulk_.back();
  bulk_.pop_back();
  PhaseBarrier& barrier = *landed.barrier;
  const uint32_t clock = ++barrier.copierClock;
  land(landed.copy, moments.add({barrier.launchSerial, barrier.copier, clock}));
  landed.copy.to->visit(barrier.copier, clock);
  barrier.known.add(barrier.copier, clock);
  barrier.bytes -= static_cast<int64_t>(landed.copy.filled);
  completePhase(barrier);
  return true;
}

void Machine::commitCopies() { thread().groups.emplace_back(); }

void Machine::waitCopies(size_t groupsLeft) {
  auto& groups = thread().groups;
  while (groups.size() > groupsLeft + 1) {
    for (const Thread::Copy& copy : groups.front()) land(copy, thread().moment());
    groups.erase(groups.begin());
  }
}

}  // namespace flrc::emulator
