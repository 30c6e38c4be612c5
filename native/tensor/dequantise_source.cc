// GGUF block types to f32. Every layout is that of GGML: a block's scales in f16 (or packed 6 bits), then its
// quantised values.
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/source.h"

namespace flrc {
namespace {

float f16ToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    // Subnormal: mantissa * 2^-24 is exact in f32.
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t half(const uint8_t* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float halfFloat(const uint8_t* at) { return f16ToFloat(half(at)); }

uint32_t word(const uint8_t* at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// d (f16), 32 int8
void blockQ8_0(const uint8_t* b, float* out) {
  const float d = halfFloat(b);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(b[2 + i]));
}

// 32 four-bit values in 16 bytes: the low nibbles are the first half.
template <typename Value>
void nibbles(const uint8_t* q, float* out, Value value) {
  for (int i = 0; i < 16; ++i) {
    out[i] = value(q[i] & 15, i);
    out[i + 16] = value(q[i] >> 4, i + 16);
  }
}

void blockQ4_0(const uint8_t* b, float* out) {
  const float d = halfFloat(b);
  nibbles(b + 2, out, [&](int q, int) { return d * static_cast<float>(q - 8); });
}

void blockQ4_1(const uint8_t* b, float* out) {
  const float d = halfFloat(b), low = halfFloat(b + 2);
  nibbles(b + 4, out, [&](int q, int) { return d * static_cast<float>(q) + low; });
}

void blockQ5_0(const uint8_t* b, float* out) {
  const float d = halfFloat(b);
  const uint32_t high = word(b + 2);
  nibbles(b + 6, out, [&](int q, int i) {
    return d * static_cast<float>((q | static_cast<int>(((high >> i) & 1u) << 4)) - 16);
  });
}

void blockQ5_1(const uint8_t* b, float* out) {
  const float d = halfFloat(b), low = halfFloat(b + 2);
  const uint32_t high = word(b + 4);
  nibbles(b + 8, out, [&](int q, int i) {
    return d * static_cast<float>(q | static_cast<int>(((high >> i) & 1u) << 4)) + low;
  });
}

struct ScaleMin {
  int scale, low;
};

// Eight 6-bit scales and minima packed in 12 bytes.
ScaleMin packedScale(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)};
}

// d, dmin (f16), 12 bytes of scales, 128 bytes of nibbles: groups 2i and 2i + 1 share 32 bytes.
void blockQ4_K(const uint8_t* b, float* out) {
  const float d = halfFloat(b), dmin = halfFloat(b + 2);
  const uint8_t* q = b + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = packedScale(b + 4, j);
    const float scale = d * static_cast<float>(s.scale), low = dmin * static_cast<float>(s.low);
    const uint8_t* bytes = q + (j / 2) * 32;
    for (int i = 0; i < 32; ++i) {
      const int value = j % 2 ? bytes[i] >> 4 : bytes[i] & 15;
      out[j * 32 + i] = scale * static_cast<float>(value) - low;
    }
  }
}

// As Q4_K, with a fifth bit of value i of group j at bit j of byte i of 32 more bytes.
void blockQ5_K(const uint8_t* b, float* out) {
  const float d = halfFloat(b), dmin = halfFloat(b + 2);
  const uint8_t* high = b + 16;
  const uint8_t* q = b + 48;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = packedScale(b + 4, j);
    const float scale = d * static_cast<float>(s.scale), low = dmin * static_cast<float>(s.low);
    const uint8_t* bytes = q + (j / 2) * 32;
    for (int i = 0; i < 32; ++i) {
      const int value = (j % 2 ? bytes[i] >> 4 : bytes[i] & 15) | (((high[i] >> j) & 1) << 4);
      out[j * 32 + i] = scale * static_cast<float>(value) - low;
    }
  }
}

// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales, d (f16).
void blockQ6_K(const uint8_t* b, float* out) {
  const float d = halfFloat(b + 208);
  for (int part = 0; part < 2; ++part) {
    const uint8_t* low = b + part * 64;
    const uint8_t* high = b + 128 + part * 32;
    const auto* scales = reinterpret_cast<const int8_t*>(b + 192 + part * 8);
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < 32; ++i) {
        const uint8_t byte = low[(j % 2) * 32 + i];
        const int nibble = j < 2 ? byte & 15 : byte >> 4;
        const int value = (nibble | (((high[i] >> (2 * j)) & 3) << 4)) - 32;
        out[part * 128 + j * 32 + i] =
            d * static_cast<float>(scales[j * 2 + i / 16]) * static_cast<float>(value);
      }
    }
  }
}

// 16 bytes of a four-bit scale and minimum, 64 bytes of bit pairs, d, dmin (f16).
void blockQ2_K(const uint8_t* b, float* out) {
  const float d = halfFloat(b + 80), dmin = halfFloat(b + 82);
  for (int j = 0; j < 16; ++j) {
    const float scale = d * static_cast<float>(b[j] & 15), low = dmin * static_cast<float>(b[j] >> 4);
    const uint8_t* bytes = b + 16 + (j / 8) * 32 + (j % 2) * 16;
    const int shift = (j % 8) / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      out[j * 16 + i] = scale * static_cast<float>((bytes[i] >> shift) & 3) - low;
    }
  }
}

// 32 bytes of third bits, 64 bytes of bit pairs, 12 bytes of sixteen 6-bit scales (low nibbles, then high
// pairs), d (f16).
void blockQ3_K(const uint8_t* b, float* out) {
  const float d = halfFloat(b + 108);
  const uint8_t* packed = b + 96;
  for (int j = 0; j < 16; ++j) {
    const int nibble = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
    const int pair = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
    const float scale = d * static_cast<float>((nibble | (pair << 4)) - 32);
    const uint8_t* high = b + (j % 2) * 16;
    const uint8_t* bytes = b + 32 + (j / 8) * 32 + (j % 2) * 16;
    const int shift = (j % 8) / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      const int below = (high[i] >> (j / 2)) & 1 ? 0 : 4;
      out[j * 16 + i] = scale * static_cast<float>(((bytes[i] >> shift) & 3) - below);
    }
  }
}

// What the sixteen codes of IQ4_NL and IQ4_XS stand for.
constexpr int8_t kUneven[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void blockIQ4_NL(const uint8_t* b, float* out) {
  const float d = halfFloat(b);
  nibbles(b + 2, out, [&](int q, int) { return d * static_cast<float>(kUneven[q]); });
}

// d (f16), high pairs and low nibbles of eight 6-bit scales, then 16 bytes for each of eight groups.
void blockIQ4_XS(const uint8_t* b, float* out) {
  const float d = halfFloat(b);
  for (int j = 0; j < 8; ++j) {
    const int nibble = (b[4 + j / 2] >> (4 * (j % 2))) & 15;
    const int pair = (half(b + 2) >> (2 * j)) & 3;
    const float scale = d * static_cast<float>((nibble | (pair << 4)) - 32);
    nibbles(b + 8 + j * 16, out + j * 32, [&](int q, int) { return scale * static_cast<float>(kUneven[q]); });
  }
}

template <typename Block>
void eachBlock(SourceType type, const uint8_t* bytes, int64_t count, float* out, Block block) {
  const TypeLayout layout = typeLayout(type);
  for (int64_t i = 0; i < count; i += layout.blockValues) {
    block(bytes, out + i);
    bytes += layout.blockBytes;
  }
}

}  // namespace

void toFloat(SourceType type, const uint8_t* bytes, int64_t count, float* out) {
  switch (type) {
    case SourceType::f64:
      for (int64_t i = 0; i < count; ++i) {
        double value;
        std::memcpy(&value, bytes + 8 * i, sizeof value);
        out[i] = static_cast<float>(value);
      }
      break;
    case SourceType::f32:
      std::memcpy(out, bytes, static_cast<size_t>(count) * sizeof(float));
      break;
    case SourceType::f16:
      for (int64_t i = 0; i < count; ++i) out[i] = halfFloat(bytes + 2 * i);
      break;
    case SourceType::bf16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16ToFloat(half(bytes + 2 * i));
      break;
    case SourceType::i32:
      for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<float>(static_cast<int32_t>(word(bytes + 4 * i)));
      break;
    case SourceType::i8:
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<int8_t>(bytes[i]));
      break;
    case SourceType::u8:
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(bytes[i]);
      break;
    case SourceType::q8_0:
      eachBlock(type, bytes, count, out, blockQ8_0);
      break;
    case SourceType::q4_0:
      eachBlock(type, bytes, count, out, blockQ4_0);
      break;
    case SourceType::q4_1:
      eachBlock(type, bytes, count, out, blockQ4_1);
      break;
    case SourceType::q5_0:
      eachBlock(type, bytes, count, out, blockQ5_0);
      break;
    case SourceType::q5_1:
      eachBlock(type, bytes, count, out, blockQ5_1);
      break;
    case SourceType::q4_k:
      eachBlock(type, bytes, count, out, blockQ4_K);
      break;
    case SourceType::q5_k:
      eachBlock(type, bytes, count, out, blockQ5_K);
      break;
    case SourceType::q6_k:
      eachBlock(type, bytes, count, out, blockQ6_K);
      break;
    case SourceType::q2_k:
      eachBlock(type, bytes, count, out, blockQ2_K);
      break;
    case SourceType::q3_k:
      eachBlock(type, bytes, count, out, blockQ3_K);
      break;
    case SourceType::iq4_nl:
      eachBlock(type, bytes, count, out, blockIQ4_NL);
      break;
    case SourceType::iq4_xs:
      eachBlock(type, bytes, count, out, blockIQ4_XS);
      break;
  }
}

}  // namespace flrc
