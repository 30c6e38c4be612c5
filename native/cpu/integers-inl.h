// Compiled once per target by kernels.cc: Highway flips HWY_TARGET_TOGGLE before each inclusion.
#if defined(FLRC_CPU_INTEGERS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLRC_CPU_INTEGERS_INL
#undef FLRC_CPU_INTEGERS_INL
#else
#define FLRC_CPU_INTEGERS_INL
#endif

#include "cpu/row_inputs.h"
#include "cpu/weights-inl.h"

// How int8 and int4 weights are multiplied with inputs rounded to 16 bits. A word of 4 bytes holds int8 weights
// 0..3 or int4 weights 0..7 of an output; a vector of words comes apart into parts, and each part meets some
// words of inputs, in an order that the way chooses. Sums of a group of kGroup weights are exact, so that all
// ways give the same bits.
HWY_BEFORE_NAMESPACE();
namespace flrc::cpu::HWY_NAMESPACE {

using WordTag = hn::Repartition<int32_t, FloatTag>;
using IntegerVector = hn::Vec<WordTag>;
using ShortTag = hn::Repartition<int16_t, FloatTag>;
using ShortVector = hn::Vec<ShortTag>;
inline constexpr WordTag kWords;
inline constexpr ShortTag kShorts;

// Words of an output in a group, and words of inputs that meet one of them.
template <Dtype kType>
inline constexpr int64_t kGroupWords = kType == Dtype::int8 ? kGroup / 4 : kGroup / 8;
template <Dtype kType>
inline constexpr int64_t kInputWords = kGroup / 2 / kGroupWords<kType>;

// Bytes of each 16 in the order of a table.
HWY_INLINE ShortVector inOrder(ShortVector values, const uint8_t (&order)[16]) {
  const hn::Repartition<uint8_t, FloatTag> bytes;
  return hn::BitCast(kShorts, hn::TableLookupBytes(hn::BitCast(bytes, values), hn::LoadDup128(bytes, order)));
}

// Weights as 16-bit values, two in a word: part p of int8 has weights p and p + 2, of int4 p and p + 4.
struct ShortProducts {
  template <Dtype kType>
  HWY_INLINE static ShortVector arrange(ShortVector inputs) {
    HWY_ALIGN static constexpr uint8_t kInt8[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
    HWY_ALIGN static constexpr uint8_t kInt4[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
    return inOrder(inputs, kType == Dtype::int8 ? kInt8 : kInt4);
  }

  template <Dtype kType, int kVectors, int kColumns>
  struct Sums {
    static constexpr int kParts = static_cast<int>(kInputWords<kType>);
    IntegerVector low[kVectors][kColumns], high[kVectors][kColumns];

    HWY_INLINE Sums() {
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        FLRC_UNROLL
        for (int c = 0; c < kColumns; ++c) low[v][c] = high[v][c] = hn::Zero(kWords);
      }
    }

    // Words at `at` times word `step` of the groups x[c * stride].
    HWY_INLINE void add(const uint8_t* at, const RoundedGroup* x, int64_t stride, int64_t step) {
      ShortVector w[kVectors][kParts];
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) unpack(at + v * kLanes * 4, w[v]);
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int32_t* words = x[c * stride].words + step * kParts;
        FLRC_UNROLL
        for (int p = 0; p < kParts; ++p) {
          const ShortVector input = hn::BitCast(kShorts, hn::Set(kWords, words[p]));
          FLRC_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            low[v][c] = hn::ReorderWidenMulAccumulate(kWords, w[v][p], input, low[v][c], high[v][c]);
          }
        }
      }
    }

    HWY_INLINE IntegerVector total(int v, int c) const {
      return hn::RearrangeToOddPlusEven(low[v][c], high[v][c]);
    }

   private:
    HWY_INLINE static void unpack(const uint8_t* at, ShortVector* parts) {
      const hn::Repartition<uint16_t, FloatTag> halves;
      const auto packed = hn::LoadU(halves, reinterpret_cast<const uint16_t*>(at));
      if constexpr (kType == Dtype::int8) {
        const auto bytes = hn::BitCast(kShorts, packed);
        parts[0] = hn::ShiftRight<8>(hn::ShiftLeft<8>(bytes));
        parts[1] = hn::ShiftRight<8>(bytes);
      } else {
        const auto nibble = hn::Set(halves, uint16_t{15});
        parts[0] = hn::BitCast(kShorts, hn::And(packed, nibble));
        parts[1] = hn::BitCast(kShorts, hn::And(hn::ShiftRight<4>(packed), nibble));
        parts[2] = hn::BitCast(kShorts, hn::And(hn::ShiftRight<8>(packed), nibble));
        parts[3] = hn::BitCast(kShorts, hn::ShiftRight<12>(packed));
      }
    }
  };
};

#if HWY_TARGET == HWY_AVX3
// Weights as bytes, four in a word, of which AVX512-VNNI multiplies unsigned ones with signed ones: int4
// weights are unsigned and meet the signed high and low byte of an input; int8 weights are signed and meet the
// bytes of the input plus 2^15, which are unsigned, so that 2^15 times the sum of the weights is subtracted.
struct ByteProducts {
  template <Dtype kType>
  HWY_INLINE static ShortVector arrange(ShortVector inputs) {
    HWY_ALIGN static constexpr uint8_t kInt8[16] = {1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14};
    HWY_ALIGN static constexpr uint8_t kInt4[16] = {1, 5, 9, 13, 0, 4, 8, 12, 3, 7, 11, 15, 2, 6, 10, 14};
    if constexpr (kType == Dtype::int8) {
      return inOrder(hn::Xor(inputs, hn::Set(kShorts, int16_t{-0x8000})), kInt8);
    }
    const ShortVector lowBytes = hn::Set(kShorts, int16_t{0xff});
    const ShortVector high = hn::AndNot(lowBytes, hn::Add(inputs, hn::Set(kShorts, int16_t{0x80})));
    return inOrder(hn::Or(high, hn::And(inputs, lowBytes)), kInt4);
  }

  template <Dtype kType, int kVectors, int kColumns>
  struct Sums {
    static constexpr int kParts = static_cast<int>(kInputWords<kType> / 2);
    IntegerVector low[kVectors][kColumns], high[kVectors][kColumns], weights[kVectors];

    HWY_INLINE Sums() {
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        weights[v] = hn::Zero(kWords);
        FLRC_UNROLL
        for (int c = 0; c < kColumns; ++c) low[v][c] = high[v][c] = hn::Zero(kWords);
      }
    }

    HWY_INLINE void add(const uint8_t* at, const RoundedGroup* x, int64_t stride, int64_t step) {
      IntegerVector w[kVectors][kParts];
      FLRC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const IntegerVector words = hn::LoadU(kWords, reinterpret_cast<const int32_t*>(at) + v * kLanes);
        if constexpr (kType == Dtype::int8) {
          w[v][0] = words;
          addProducts(hn::Set(kWords, 0x01010101), words, weights[v]);
        } else {
          const IntegerVector nibbles = hn::Set(kWords, 0x0f0f0f0f);
          w[v][0] = hn::And(words, nibbles);
          w[v][1] = hn::And(hn::ShiftRight<4>(words), nibbles);
        }
      }
      FLRC_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int32_t* words = x[c * stride].words + step * 2 * kParts;
        FLRC_UNROLL
        for (int p = 0; p < kParts; ++p) {
          const IntegerVector inputHigh = hn::Set(kWords, words[2 * p]),
                              inputLow = hn::Set(kWords, words[2 * p + 1]);
          FLRC_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            if constexpr (kType == Dtype::int8) {
              addProducts(inputHigh, w[v][p], high[v][c]);
              addProducts(inputLow, w[v][p], low[v][c]);
            } else {
              addProducts(w[v][p], inputHigh, high[v][c]);
              addProducts(w[v][p], inputLow, low[v][c]);
            }
          }
        }
      }
    }

    HWY_INLINE IntegerVector total(int v, int c) const {
      const IntegerVector sum = hn::Add(hn::ShiftLeft<8>(high[v][c]), low[v][c]);
      return kType == Dtype::int8 ? hn::Sub(sum, hn::ShiftLeft<15>(weights[v])) : sum;
    }

   private:
    // The intrinsic would have to be inlined into functions of Highway's target, which lacks VNNI.
    HWY_INLINE static void addProducts(IntegerVector unsignedBytes, IntegerVector signedBytes,
                                       IntegerVector& sum) {
      auto raw = sum.raw;
      asm("vpdpbusd %2, %1, %0" : "+v"(raw) : "v"(unsignedBytes.raw), "v"(signedBytes.raw));
      sum = IntegerVector{raw};
    }
  };
};
#endif

}  // namespace flrc::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
