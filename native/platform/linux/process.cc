#include "platform/process.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

namespace flrc::platform {
namespace {

constexpr int kUnlimited = 1 << 20;

int quotaCores(double quota, double period) {
  if (quota <= 0 || period <= 0) return kUnlimited;
  return std::max(1, static_cast<int>(std::min<double>(quota / period, kUnlimited)));
}

int quotaV2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return kUnlimited;
  return quotaCores(std::strtod(quota.c_str(), nullptr), period);
}

int quotaV1(const std::string& directory) {
  std::ifstream quotaFile(directory + "/cpu.cfs_quota_us"), periodFile(directory + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quotaFile >> quota) || !(periodFile >> period)) return kUnlimited;
  return quotaCores(quota, period);
}

// The tightest limit from the group itself up to the root: a parent's quota binds its children.
template <typename Quota>
int tightestQuota(const std::string& mount, std::string path, Quota quota) {
  int cores = kUnlimited;
  for (;;) {
    cores = std::min(cores, quota(mount + path));
    if (path.empty()) return cores;
    const size_t parent = path.find_last_of('/');
    path.resize(parent == std::string::npos ? 0 : parent);
  }
}

// Lines of /proc/self/cgroup are "hierarchy:controllers:path"; version 2 has no controllers.
int cgroupCores() {
  std::ifstream groups("/proc/self/cgroup");
  int cores = kUnlimited;
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      cores = std::min(cores, tightestQuota("/sys/fs/cgroup", path, quotaV2));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      cores = std::min(cores, tightestQuota("/sys/fs/cgroup/" + controllers, path, quotaV1));
    }
  }
  return cores;
}

int affinityCores() {
  // Machines with more processors than a cpu_set_t holds answer EINVAL until the set is large enough.
  for (int processors = 1024; processors <= 1 << 20; processors *= 4) {
    cpu_set_t* set = CPU_ALLOC(processors);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(processors);
    const int cores = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (cores > 0) return cores;
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int availableCores() { return std::max(1, std::min(affinityCores(), cgroupCores())); }

int64_t peakMemory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace flrc::platform
