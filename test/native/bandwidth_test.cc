#include "core/bandwidth.h"

#include "check.h"

using flrc::Job;
using flrc::readBandwidth;

TEST("bandwidth: a plausible number of bytes per second, at any thread count") {
  for (int threads : {1, 2, 0}) {
    const double bandwidth = readBandwidth(int64_t{1} << 24, threads, Job());
    CHECK(bandwidth > 1e7 && bandwidth < 1e14);
  }
}

TEST("bandwidth: too small a buffer is refused, and a cancelled call ends") {
  CHECK_THROWS("E_INTERNAL", readBandwidth(1000, 1, Job()));
  Job cancelled;
  cancelled.cancel();
  CHECK_THROWS("E_ABORTED", readBandwidth(int64_t{1} << 24, 2, cancelled));
}
