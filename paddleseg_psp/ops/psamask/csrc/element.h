// The types of tensor elements and the type in which each is computed with.
#pragma once

#include <cstdint>
#include <cstring>

namespace psa {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};

template <typename To, typename From>
inline To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline float Load(float x) { return x; }
inline double Load(double x) { return x; }
inline float Load(BFloat16 x) { return BitCast<float>(uint32_t(x.bits) << 16); }

inline float Load(Half x) {
  // Half's exponent and fraction at float's place; the product moves the exponent's bias, also of subnormal numbers.
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16;
  const bool finite = magnitude < 0x7c00u << 13;
  const uint32_t bits = finite ? BitCast<uint32_t>(BitCast<float>(magnitude) * 0x1p112f) : magnitude | 0x7f800000;
  return BitCast<float>(bits | sign);
}

inline void Store(float x, float* to) { *to = x; }
inline void Store(double x, double* to) { *to = x; }

inline void Store(float x, BFloat16* to) {
  const uint32_t bits = BitCast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
  to->bits = uint16_t(x == x ? rounded : 0x7fc0);
}

inline void Store(float x, Half* to) {
  const uint32_t sign = BitCast<uint32_t>(x) >> 16 & 0x8000, magnitude = BitCast<uint32_t>(x) & 0x7fffffff;
  uint32_t bits;
  if (magnitude > 0x7f800000) {
    bits = 0x7e00;  // not a number
  } else if (magnitude >= 0x477ff000) {
    bits = 0x7c00;  // from 65520 on, infinity
  } else if (magnitude < 0x38800000) {
    bits = BitCast<uint32_t>(BitCast<float>(magnitude) + 0.5f) - 0x3f000000;  // subnormal: 0.5's last bit is 2^-24
  } else {
    bits = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;  // to nearest, ties to even
  }
  to->bits = uint16_t(bits | sign);
}

}  // namespace psa
