#include "emulator/machine.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

namespace flrc::emulator {
namespace {

// Ends a thread of a launch that failed: its locals are destroyed as its stack unwinds.
struct Abandoned {};

// Of the whole process: memory outlives a machine.
uint32_t launches = 0, blocksStarted = 0;

}  // namespace

std::string Machine::place() {
  const Thread& at = thread();
  return "block " + std::to_string(at.block->index) + " thread " + std::to_string(at.index);
}

void Machine::launch(const LaunchShape& shape, std::function<void()> body) {
  const size_t blocks = size_t{shape.gridX} * shape.gridY * shape.gridZ;
  if (blocks == 0 || shape.threads == 0 || shape.threads > kMostThreads || shape.threads % kWarpThreads != 0) {
    throw Fault("a launch of " + std::to_string(blocks) + " blocks of " + std::to_string(shape.threads) +
                " threads");
  }
  // No chip has more than 227 KB, and who has not asked the chip may not take more than all of them have.
  if (shape.sharedBytes > (shape.fitted ? size_t{227 * 1024} : gpu::kSharedOfAnyChip)) {
    throw Fault(std::to_string(shape.sharedBytes) + " bytes of shared memory, more than a block of " +
                (shape.fitted ? "any chip" : "some chips") + " can have");
  }
  if (shape.cluster == 0 || shape.cluster > mostCluster || shape.gridX % shape.cluster != 0) {
    throw Fault("a grid that is not made of whole clusters, or of larger ones than there is room for");
  }
  // Whoever comes from here on comes after all that was done.
  if (Launch::all == 0) moments.forget();
  auto launch = std::make_unique<Launch>();
  launch->shape = shape;
  launch->body = std::move(body);
  launch->serial = ++launches;
  launch->order.resize(shape.cooperative ? 1 : blocks / shape.cluster);
  std::iota(launch->order.begin(), launch->order.end(), 0u);
  std::shuffle(launch->order.begin(), launch->order.end(), random_);
  launch->unfinished = launch->untriggered = blocks * shape.threads;
  launch->none = std::make_shared<Clocks>();
  queue_.push_back(std::move(launch));
}

bool Machine::complete(uint32_t serial) const {
  for (const auto& launch : queue_) {
    if (launch->serial > serial) break;
    if (launch->unfinished > 0) return false;
  }
  return true;
}

void Machine::admit() {
  for (size_t i = 0; i < queue_.size(); ++i) {
    Launch& launch = *queue_[i];
    if (i > 0) {
      const Launch& ahead = *queue_[i - 1];
      const bool may =
          launch.shape.dependent ? ahead.started() && ahead.untriggered == 0 : ahead.unfinished == 0;
      if (!may) return;
    }
    if (launch.next == launch.order.size()) continue;
    const size_t most = 1 + random_.below(3);
    while (launch.live < most && launch.next < launch.order.size()) startUnit(launch);
  }
}

void Machine::startUnit(Launch& launch) {
  const LaunchShape& shape = launch.shape;
  const uint32_t unitBlocks = static_cast<uint32_t>(
      shape.cooperative ? size_t{shape.gridX} * shape.gridY * shape.gridZ : shape.cluster);
  const uint32_t first = launch.order[launch.next++] * unitBlocks;
  uint32_t ordered = launch.serial - 1;
  while (ordered > 0 && !complete(ordered)) --ordered;
  auto unit = std::make_unique<Unit>();
  unit->clusters.resize(unitBlocks / shape.cluster);
  unit->clusterBarriers.resize(unit->clusters.size());
  unit->running = size_t{unitBlocks} * shape.threads;
  for (uint32_t b = 0; b < unitBlocks; ++b) {
    auto block = std::make_unique<Block>();
    block->launch = &launch;
    block->unit = unit.get();
    block->serial = ++blocksStarted;
    block->index = first + b;
    block->cluster = &unit->clusters[b / shape.cluster];
    block->clusterBarrier = &unit->clusterBarriers[b / shape.cluster];
    block->cluster->push_back(block.get());
    block->shared = std::make_unique<Memory>("shared memory", shape.sharedBytes, kSharedCell, true);
    block->shared->assign(block->serial);
    block->warps.resize(shape.threads / kWarpThreads);
    block->warpBarriers.resize(block->warps.size());
    block->warpgroups.resize((shape.threads + kWarpgroupThreads - 1) / kWarpgroupThreads);
    block->threads.resize(shape.threads);
    block->running = shape.threads;
    for (uint32_t t = 0; t < shape.threads; ++t) {
      Thread& thread = block->threads[t];
      thread.block = block.get();
      thread.warp = &block->warps[t / kWarpThreads];
      thread.index = t;
      thread.id = threadId(block->index, t);
      thread.launchSerial = launch.serial;
      thread.known = launch.none;
      thread.ordered = ordered;
      ready_.push_back(&thread);
    }
    unit->blocks.push_back(std::move(block));
  }
  launch.units.push_back(std::move(unit));
  ++launch.live;
}

void Machine::synchronise() {
  machine = this;
  while (!queue_.empty()) {
    admit();
    // Waiting threads are looked at now and then, and copies land now and then, so that both early and late are
    // seen.
    const uint64_t drawn = random_();
    if (drawn % 16 == 0 && changes_ != 0) wakeWaiting(std::exchange(changes_, uint8_t{0}));
    if (drawn / 16 % 8 == 0) landBulkCopy();
    if (ready_.empty()) {
      if (wakeWaiting(~0u) || landBulkCopy()) continue;
      if (queue_.front()->unfinished == 0) {
        queue_.pop_front();
        continue;
      }
      try {
        reportDeadlock();
      } catch (const Fault&) {
        fault_ = std::current_exception();
      }
    } else {
      const size_t pick = random_.below(ready_.size());
      std::swap(ready_[pick], ready_.back());
      Thread& next = *ready_.back();
      ready_.pop_back();
      run(next);
    }
    if (fault_) abandon();
  }
}

void Machine::run(Thread& thread) {
  if (thread.fiber == nullptr) {
    if (idle.empty()) {
      fibers.push_back(std::make_unique<Fiber>());
      idle.push_back(fibers.back().get());
    }
    thread.fiber = idle.back();
    idle.pop_back();
    thread.fiber->start([this, &thread] {
      try {
        thread.block->launch->body();
        if (std::any_of(thread.groups.begin(), thread.groups.end(),
                        [](const auto& group) { return !group.empty(); })) {
          throw Fault(place() + ": ends while an asynchronous copy of its own is on its way");
        }
        if (!thread.products.empty()) throw Fault(place() + ": ends while a product of its own is on its way");
        Memory& shared = *thread.block->shared;
        shared.forgetVisits();
        if (thread.block->running == 1 && shared.hasVisits()) {
          throw Fault(place() +
                      ": the last one of a block ends, and others' accesses or copies to it may still come");
        }
      } catch (const Abandoned&) {
      } catch (...) {
        fault_ = std::current_exception();
      }
    });
  }
  running = &thread;
  thread.waitsFor = nullptr;
  thread.fiber->resume();
  running = nullptr;
  if (thread.fiber->done()) finish(thread);
}

void Machine::finish(Thread& thread) {
  Block& block = *thread.block;
  Launch& launch = *block.launch;
  idle.push_back(thread.fiber);
  thread.fiber = nullptr;
  if (--launch.unfinished == 0) changed(Change::launch);
  if (!thread.triggered) --launch.untriggered;
  mostBarriers = std::max(mostBarriers, thread.barriers);
  int& waits = mostWaits[static_cast<int>(thread.index)];
  waits = std::max(waits, thread.waits);
  if (--block.running == 0) {
    if (std::any_of(bulk_.begin(), bulk_.end(),
                    [&](const BulkCopy& copy) { return copy.copy.to == block.shared.get(); })) {
      fault_ = std::make_exception_ptr(
          Fault("block " + std::to_string(block.index) + ": ends while a bulk copy to it is on its way"));
    }
    block.shared->assign(0);
  }
  if (--block.unit->running == 0) {
    --launch.live;
    block.unit->blocks.clear();
  }
}

void Machine::suspend(const char* what) {
  running->waitsFor = what;
  Thread* self = running;
  self->fiber->suspend();
  if (abandoning_) throw Abandoned();
}

void Machine::abandon() {
  abandoning_ = true;
  for (auto& launch : queue_) {
    for (auto& unit : launch->units) {
      for (auto& block : unit->blocks) {
        for (Thread& thread : block->threads) {
          if (thread.fiber == nullptr) continue;
          running = &thread;
          if (!thread.fiber->done()) thread.fiber->resume();
          running = nullptr;
          idle.push_back(thread.fiber);
        }
      }
    }
  }
  abandoning_ = false;
  queue_.clear();
  ready_.clear();
  waiting_.clear();
  bulk_.clear();
  std::rethrow_exception(std::exchange(fault_, nullptr));
}

void Machine::reportDeadlock() const {
  std::map<std::string, int> counts;
  for (const auto& launch : queue_) {
    for (const auto& unit : launch->units) {
      for (const auto& block : unit->blocks) {
        for (const Thread& thread : block->threads) {
          if (thread.fiber != nullptr) ++counts[thread.waitsFor == nullptr ? "nothing" : thread.waitsFor];
        }
      }
    }
  }
  std::string message = "nobody can go on:";
  for (const auto& [what, count] : counts) {
    message += " " + std::to_string(count) + " threads wait for " + what + ";";
  }
  throw Fault(message);
}

void Machine::waitUntil(const char* what, Change by, std::function<bool()> ready) {
  if (ready()) {
    if (random_() % 2 == 0) return;
    changed(by);
  }
  running->ready = std::move(ready);
  waiting_.push_back({running, by});
  suspend(what);
}

bool Machine::wakeWaiting(unsigned changes) {
  bool woken = false;
  for (size_t i = 0; i < waiting_.size();) {
    const auto [thread, by] = waiting_[i];
    if ((static_cast<unsigned>(by) & changes) == 0 || !thread->ready()) {
      ++i;
      continue;
    }
    thread->ready = nullptr;
    ready_.push_back(thread);
    waiting_[i] = waiting_.back();
    waiting_.pop_back();
    woken = true;
  }
  return woken;
}

}  // namespace flrc::emulator
