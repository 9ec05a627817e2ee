// Vectors and register tiles for the instruction sets that are chosen among at run time.
//
// The loops are written once, for a class that describes an instruction set, and inlined into one function for each set, which
// the compiler may use that set in.
#pragma once

#include <cstdint>
#include <cstring>

#include "element.h"

namespace psa {

#define PSA_INLINE inline __attribute__((always_inline))

// The bytes of a vector, how many vectors of channels a tile of kTileRows sums holds, and the tile of dot products, whose rows
// divide kTileRows: as much as the registers can hold.
struct Baseline {  // SSE2, NEON
  static constexpr int kBytes = 16, kVectors = 2, kDotRows = 2, kDotColumns = 4;
};

#if defined(__x86_64__)
struct Avx2 {
  static constexpr int kBytes = 32, kVectors = 2, kDotRows = 3, kDotColumns = 4;
};
struct Avx512 {
  static constexpr int kBytes = 64, kVectors = 4, kDotRows = 6, kDotColumns = 4;
};
#endif

constexpr int kTileRows = 6;
constexpr int kChannelStep = 64;  // a multiple of every tile's channels

template <typename S, int kBytes>
struct VectorOf;
#define PSA_VECTOR(S, BYTES)                                                           \
  template <>                                                                          \
  struct VectorOf<S, BYTES> {                                                          \
    typedef S Type __attribute__((vector_size(BYTES), aligned(sizeof(S)), may_alias)); \
  };
PSA_VECTOR(float, 16)
PSA_VECTOR(float, 32)
PSA_VECTOR(float, 64)
PSA_VECTOR(double, 16)
PSA_VECTOR(double, 32)
PSA_VECTOR(double, 64)
#undef PSA_VECTOR

template <class Isa, typename S>
using Vector = typename VectorOf<S, Isa::kBytes>::Type;

template <class Isa, typename S>
constexpr int64_t kLanes = Isa::kBytes / sizeof(S);

// sums[g][c] += weights[u * u_step + g * g_step] * rows[u][c] for 0 <= u < count, g < kTileRows and c < channels, a multiple of
// the tile's. Rows lie `stride` apart.
template <class Isa, typename S, int64_t u_step, int64_t g_step>
PSA_INLINE void AddWeightedRows(const S* weights, const S* rows, int64_t count, int64_t channels, int64_t stride, S* sums) {
  constexpr int64_t kLane = kLanes<Isa, S>;
  using V = Vector<Isa, S>;
  for (int64_t c = 0; c < channels; c += Isa::kVectors * kLane) {
    V sum[kTileRows][Isa::kVectors];
#pragma GCC unroll 16
    for (int g = 0; g < kTileRows; ++g)
#pragma GCC unroll 16
      for (int k = 0; k < Isa::kVectors; ++k) sum[g][k] = *(const V*)(sums + g * stride + c + k * kLane);
    const S* weight = weights;
    const S* row = rows + c;
    for (int64_t u = 0; u < count; ++u, weight += u_step, row += stride) {
      V value[Isa::kVectors];
#pragma GCC unroll 16
      for (int k = 0; k < Isa::kVectors; ++k) value[k] = *(const V*)(row + k * kLane);
#pragma GCC unroll 16
      for (int g = 0; g < kTileRows; ++g)
#pragma GCC unroll 16
        for (int k = 0; k < Isa::kVectors; ++k) sum[g][k] += weight[g * g_step] * value[k];
    }
#pragma GCC unroll 16
    for (int g = 0; g < kTileRows; ++g)
#pragma GCC unroll 16
      for (int k = 0; k < Isa::kVectors; ++k) *(V*)(sums + g * stride + c + k * kLane) = sum[g][k];
  }
}

template <typename S, int kBytes>
PSA_INLINE S SumLanes(typename VectorOf<S, kBytes>::Type x) {
  if constexpr (kBytes > 16) {
    typename VectorOf<S, kBytes / 2>::Type halves[2];
    std::memcpy(halves, &x, sizeof(x));
    return SumLanes<S, kBytes / 2>(halves[0] + halves[1]);
  } else {
    S sum = x[0];
    for (size_t k = 1; k < kBytes / sizeof(S); ++k) sum += x[k];
    return sum;
  }
}

// products[u * u_step + g * g_step] = the dot product over c of left[g][c] and right[u][c], for g < left_count <= kDotRows and
// u < right_count <= kDotColumns.
template <class Isa, typename S>
PSA_INLINE void DotRows(const S* left, int64_t left_count, const S* right, int64_t right_count, int64_t channels,
                        int64_t stride, S* products, int64_t u_step, int64_t g_step) {
  using V = Vector<Isa, S>;
  const S *left_rows[Isa::kDotRows], *right_rows[Isa::kDotColumns];  // beyond the count, the last one again
  for (int g = 0; g < Isa::kDotRows; ++g) left_rows[g] = left + (g < left_count ? g : left_count - 1) * stride;
  for (int u = 0; u < Isa::kDotColumns; ++u) right_rows[u] = right + (u < right_count ? u : right_count - 1) * stride;
  V sum[Isa::kDotRows][Isa::kDotColumns] = {};
  for (int64_t c = 0; c < channels; c += kLanes<Isa, S>) {
    V x[Isa::kDotRows];
#pragma GCC unroll 16
    for (int g = 0; g < Isa::kDotRows; ++g) x[g] = *(const V*)(left_rows[g] + c);
#pragma GCC unroll 16
    for (int u = 0; u < Isa::kDotColumns; ++u) {
      const V y = *(const V*)(right_rows[u] + c);
#pragma GCC unroll 16
      for (int g = 0; g < Isa::kDotRows; ++g) sum[g][u] += x[g] * y;
    }
  }
  for (int64_t u = 0; u < right_count; ++u)
    for (int64_t g = 0; g < left_count; ++g) products[u * u_step + g * g_step] = SumLanes<S, Isa::kBytes>(sum[g][u]);
}

// e^x for x <= 0, to 2 units in the last place; NaN stays. Written so that the compiler turns a loop of it into vectors.
PSA_INLINE float Exp(float x) {
  const float shifted = x * 1.44269504f + 0x1.8p23f;  // rounds: the integer is in its last bits
  const float integer = shifted - 0x1.8p23f;
  const float r = (x - integer * 0.693359375f) + integer * 2.12194440e-4f;  // x - integer * ln 2
  float y = 1.9875691500e-4f;                                               // Cephes' polynomial
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1;
  const float power = BitCast<float>((BitCast<uint32_t>(shifted) + 127) << 23);
  return x < -87 ? 0 : y * power;  // below, the power would be subnormal
}

PSA_INLINE double Exp(double x) { return __builtin_exp(x); }

}  // namespace psa
