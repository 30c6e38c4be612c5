#include "tensor/run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"

namespace flrc {
namespace {

uint16_t readBf16(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

void writeBf16(uint8_t* at, uint16_t bits) { std::memcpy(at, &bits, sizeof bits); }

void narrowToBf16(const float* w, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) writeBf16(to + 2 * i, floatToBf16(w[i]));
}

void rejectNonFinite(const float* w, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(w[i])) throw Error(code::numeric, "a weight to quantise is not finite");
  }
}

// w: up to kGroup values; the scale is rounded first, so that q is the best for the scale that is stored.
void quantiseInt8(const float* w, int64_t count, int8_t* q, uint8_t* scaleAt) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(w[i]));
  const uint16_t bits = floatToBf16(most / 127);
  const float scale = bf16ToFloat(bits);
  writeBf16(scaleAt, bits);
  for (int64_t i = 0; i < count; ++i) {
    const float steps = scale > 0 ? std::nearbyint(w[i] / scale) : 0;
    q[i] = static_cast<int8_t>(std::clamp(steps, -127.0f, 127.0f));
  }
  std::fill(q + count, q + kGroup, int8_t{0});
}

// The range always contains 0, so that a weight of 0 (and padding) stays exactly 0.
void quantiseInt4(const float* w, int64_t count, uint8_t* data, int64_t first, uint8_t* scaleAt,
                  uint8_t* zeroAt) {
  float low = 0, high = 0;
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
  }
  const uint16_t bits = floatToBf16(high / 15 - low / 15);
  const float scale = bf16ToFloat(bits);
  const float zero = scale > 0 ? std::clamp(std::nearbyint(-low / scale), 0.0f, 15.0f) : 0;
  writeBf16(scaleAt, bits);
  *zeroAt = static_cast<uint8_t>(zero);
  for (int64_t i = 0; i < kGroup; ++i) {
    const float steps = i < count && scale > 0 ? std::nearbyint(w[i] / scale) : 0;
    setNibble(data, first + i, static_cast<int>(std::clamp(steps + zero, 0.0f, 15.0f)));
  }
}

// Where a run lies in a stored row: its first value is a multiple of kGroup, so bytes never straddle.
struct StoredPart {
  size_t data, scale, zero;  // offsets in bytes
  size_t dataBytes, scaleBytes, zeroBytes;
};

StoredPart storedPart(Dtype dtype, int64_t first, int64_t count) {
  const size_t groups = static_cast<size_t>(groupsOf(count)), firstGroup = static_cast<size_t>(first / kGroup);
  StoredPart part{};
  part.data = storedRowBytes(dtype, first);
  part.dataBytes = storedRowBytes(dtype, count);
  if (hasScale(dtype)) {
    part.scale = firstGroup * 2;
    part.scaleBytes = groups * 2;
  }
  if (hasZero(dtype)) {
    part.zero = firstGroup;
    part.zeroBytes = groups;
  }
  return part;
}

void copyBytes(uint8_t* to, const uint8_t* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

size_t weightBytes(Dtype dtype, size_t values) {
  switch (dtype) {
    case Dtype::f32:
      return values * 4;
    case Dtype::bf16:
      return values * 2;
    case Dtype::int8:
      return values;
    case Dtype::int4:
      return values / 2;
  }
  throw Error(code::internal, "a matrix of unknown dtype " + std::to_string(static_cast<int>(dtype)));
}

int nibble(const uint8_t* data, int64_t i) { return (data[i / 2] >> (4 * (i & 1))) & 15; }

void setNibble(uint8_t* data, int64_t i, int q) {
  const int shift = 4 * static_cast<int>(i & 1);
  data[i / 2] = static_cast<uint8_t>((data[i / 2] & (0xf0 >> shift)) | (q << shift));
}

void writeRun(const Run& run, const float* w, int64_t count) {
  switch (run.dtype) {
    case Dtype::f32:
      std::memcpy(run.data, w, static_cast<size_t>(count) * 4);
      return;
    case Dtype::bf16:
      narrowToBf16(w, count, run.data);
      return;
    case Dtype::int8:
    case Dtype::int4:
      break;
  }
  rejectNonFinite(w, count);
  for (int64_t group = 0; group < groupsOf(count); ++group) {
    const int64_t first = group * kGroup, values = std::min(kGroup, count - first);
    if (run.dtype == Dtype::int8) {
      quantiseInt8(w + first, values, reinterpret_cast<int8_t*>(run.data) + first, run.scale + 2 * group);
    } else {
      quantiseInt4(w + first, values, run.data, first, run.scale + 2 * group, run.zero + group);
    }
  }
}

void readRun(const Run& run, int64_t count, float* out) {
  switch (run.dtype) {
    case Dtype::f32:
      std::memcpy(out, run.data, static_cast<size_t>(count) * 4);
      return;
    case Dtype::bf16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16ToFloat(readBf16(run.data + 2 * i));
      return;
    case Dtype::int8:
      for (int64_t i = 0; i < count; ++i) {
        const float scale = bf16ToFloat(readBf16(run.scale + 2 * (i / kGroup)));
        out[i] = static_cast<float>(reinterpret_cast<const int8_t*>(run.data)[i]) * scale;
      }
      return;
    case Dtype::int4:
      for (int64_t i = 0; i < count; ++i) {
        const float scale = bf16ToFloat(readBf16(run.scale + 2 * (i / kGroup)));
        out[i] = static_cast<float>(nibble(run.data, i) - run.zero[i / kGroup]) * scale;
      }
      return;
  }
}

size_t storedRowBytes(Dtype dtype, int64_t cols) {
  return weightBytes(dtype, static_cast<size_t>(dtype == Dtype::int4 ? cols + cols % 2 : cols));
}

void sizeStored(Dtype dtype, int64_t cols, StoredRow& out) {
  const StoredPart whole = storedPart(dtype, 0, cols);
  out.data.resize(whole.dataBytes);
  out.scale.resize(whole.scaleBytes);
  out.zero.resize(whole.zeroBytes);
}

void storeRun(const Run& run, int64_t first, int64_t count, StoredRow& out) {
  const StoredPart part = storedPart(run.dtype, first, count);
  copyBytes(out.data.data() + part.data, run.data, part.dataBytes);
  copyBytes(out.scale.data() + part.scale, run.scale, part.scaleBytes);
  copyBytes(out.zero.data() + part.zero, run.zero, part.zeroBytes);
  // The unused half of an odd row's last byte is not the matrix's padding, so files do not depend on it.
  if (run.dtype == Dtype::int4 && count % 2 != 0) out.data[part.data + part.dataBytes - 1] &= 15;
}

void loadRun(const Run& run, int64_t first, int64_t count, const uint8_t* data, const uint8_t* scale,
             const uint8_t* zero) {
  const StoredPart part = storedPart(run.dtype, first, count);
  copyBytes(run.data, data + part.data, part.dataBytes);
  copyBytes(run.scale, scale + part.scale, part.scaleBytes);
  copyBytes(run.zero, zero + part.zero, part.zeroBytes);
  if (run.dtype == Dtype::int4) {
    // The weights of padding are 0, whatever the file's last byte holds.
    for (int64_t i = count; i < groupsOf(count) * kGroup; ++i) {
      setNibble(run.data, i, std::min<int>(run.zero[i / kGroup], 15));
    }
  }
}

}  // namespace flrc
