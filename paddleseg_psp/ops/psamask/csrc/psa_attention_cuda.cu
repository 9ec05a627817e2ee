// The fused attention on a GPU, in blocks of threads that each make a tile of a result from tiles in shared memory. Every
// element of a result has one thread that writes it.
//
// As on the CPU, p is a position for which a sum is taken and r one over which it is taken. A tile's p are in one map row; r
// goes through all of each map row that they reach, and rows that they do not reach enter by their sums.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "psa_attention.h"

namespace {

constexpr int kTile = 64;   // positions and channels of a tile of sums
constexpr int kDepth = 16;  // of what is multiplied at a time
constexpr int kSide = 16;   // threads along each side of a block, each with kEach x kEach sums
constexpr int kEach = kTile / kSide;
constexpr int kThreads = kSide * kSide;
constexpr int kColumns = 32;  // positions of a block that goes through all of their logits

template <typename T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
template <typename T>
using Sum = typename AccumulatorOf<T>::Type;

struct DeviceGeometry : PsaAttentionGeometry {
  explicit DeviceGeometry(const PsaAttentionGeometry& geometry)
      : PsaAttentionGeometry(geometry),
        compact(mask_height == 0),
        HW(height * width),
        mask_size((compact ? HW : mask_height * mask_width) * HW) {}

  // The map rows of r that p reaches.
  __host__ __device__ int64_t FirstRow(int64_t h) const { return compact || h < mask_height / 2 ? 0 : h - mask_height / 2; }
  __host__ __device__ int64_t EndRow(int64_t h) const {
    return compact || h + mask_height / 2 >= height ? height : h + mask_height / 2 + 1;
  }
  // Where the logit between p = (h, w) and r is in a sample's mask: of p's mask if `own`, otherwise of r's; -1 where that does
  // not reach.
  __device__ int64_t Logit(int64_t h, int64_t w, int64_t r_h, int64_t r_w, bool own) const {
    const int64_t p = h * width + w, r = r_h * width + r_w;
    if (compact) return own ? r * HW + p : p * HW + r;
    const int64_t i = (own ? r_h - h : h - r_h) + mask_height / 2, j = (own ? r_w - w : w - r_w) + mask_width / 2;
    return 0 <= i && i < mask_height && 0 <= j && j < mask_width ? (i * mask_width + j) * HW + (own ? p : r) : -1;
  }
  // The columns of r that p reaches.
  __host__ __device__ int64_t FirstColumn(int64_t w) const { return compact || w < mask_width / 2 ? 0 : w - mask_width / 2; }
  __host__ __device__ int64_t EndColumn(int64_t w) const {
    return compact || w + mask_width / 2 >= width ? width : w + mask_width / 2 + 1;
  }
  __device__ int64_t PositionsNotReached(int64_t h, int64_t w) const {
    return HW - (EndRow(h) - FirstRow(h)) * (EndColumn(w) - FirstColumn(w));
  }

  bool compact;
  int64_t HW, mask_size;
};

__device__ float Exp(float x) { return expf(x); }
__device__ double Exp(double x) { return exp(x); }

// Sets statistics, `outside` (the exponential of positions that are not reached) and `inverse` (1 / normalizer) of a block's
// positions. Threads along x are neighbours on the map; those along y share the rows that they reach.
template <typename T>
__global__ void Statistics(const T* mask, DeviceGeometry g, bool own, Sum<T>* statistics, Sum<T>* outside, Sum<T>* inverse) {
  using S = Sum<T>;
  __shared__ S shared[kSide][kColumns];
  const int64_t n = blockIdx.y, p = int64_t(blockIdx.x) * kColumns + threadIdx.x, h = p / g.width, w = p % g.width;
  const bool exists = p < g.HW;
  const int64_t not_reached = exists ? g.PositionsNotReached(h, w) : 0;
  const int64_t end_row = exists && g.softmax ? g.EndRow(h) : 0, end_column = g.EndColumn(w);
  mask += n * g.mask_size;

  S maximum = not_reached > 0 ? S(0) : -INFINITY;
  for (int64_t r_h = g.FirstRow(h) + threadIdx.y; r_h < end_row; r_h += kSide)
    for (int64_t r_w = g.FirstColumn(w); r_w < end_column; ++r_w) {
      const S logit = mask[g.Logit(h, w, r_h, r_w, own)];
      maximum = logit > maximum ? logit : maximum;
    }
  shared[threadIdx.y][threadIdx.x] = maximum;
  __syncthreads();
  for (int k = 0; k < kSide; ++k) maximum = shared[k][threadIdx.x] > maximum ? shared[k][threadIdx.x] : maximum;
  __syncthreads();

  S sum = 0;
  for (int64_t r_h = g.FirstRow(h) + threadIdx.y; r_h < end_row; r_h += kSide)
    for (int64_t r_w = g.FirstColumn(w); r_w < end_column; ++r_w) sum += Exp(S(mask[g.Logit(h, w, r_h, r_w, own)]) - maximum);
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || !exists) return;
  for (int k = 1; k < kSide; ++k) sum += shared[k][threadIdx.x];
  const S exponential = not_reached > 0 ? Exp(-maximum) : S(0);
  sum += exponential * S(not_reached);
  statistics[n * 2 * g.HW + p] = g.softmax ? maximum : S(0);
  statistics[n * 2 * g.HW + g.HW + p] = g.softmax ? sum : S(1);
  outside[n * g.HW + p] = g.softmax ? exponential : S(0);
  inverse[n * g.HW + p] = g.softmax ? 1 / sum : S(1);
}

// `outside` and `inverse` as above, from statistics.
template <typename S>
__global__ void FromStatistics(const S* statistics, DeviceGeometry g, S* outside, S* inverse) {
  const int64_t n = blockIdx.y, p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= g.HW) return;
  const bool any = g.softmax && g.PositionsNotReached(p / g.width, p % g.width) > 0;
  outside[n * g.HW + p] = any ? Exp(-statistics[n * 2 * g.HW + p]) : S(0);
  inverse[n * g.HW + p] = 1 / statistics[n * 2 * g.HW + g.HW + p];
}

// means[n, p] = the sum over channels of out * grad_out: the weighted mean of the products that softmax's gradient takes off.
template <typename T>
__global__ void MeanProducts(const T* out, const T* grad_out, DeviceGeometry g, Sum<T>* means) {
  const int64_t n = blockIdx.y, p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= g.HW) return;
  Sum<T> sum = 0;
  for (int64_t c = 0; c < g.channels; ++c) {
    const int64_t k = (n * g.channels + c) * g.HW + p;
    sum += Sum<T>(out[k]) * Sum<T>(grad_out[k]);
  }
  means[n * g.HW + p] = sum;
}

// What a sum over r is made of.
template <typename T>
struct Weights {
  const T* mask;
  const Sum<T>*statistics, *outside, *inverse;
  bool own, of_p;  // whether a logit is of p's mask, and the statistics of p; otherwise r's

  // The factor of values[r] in p's sum, but for what all of p's terms share, PFactor.
  __device__ Sum<T> RFactor(const DeviceGeometry& g, int64_t n, int64_t r) const { return of_p ? 1 : inverse[n * g.HW + r]; }
  __device__ Sum<T> PFactor(const DeviceGeometry& g, int64_t n, int64_t p) const { return of_p ? inverse[n * g.HW + p] : 1; }
  __device__ Sum<T> Outside(const DeviceGeometry& g, int64_t n, int64_t p, int64_t r) const {
    return outside[n * g.HW + (of_p ? p : r)];
  }
  __device__ Sum<T> Weight(const DeviceGeometry& g, int64_t n, int64_t h, int64_t w, int64_t r_h, int64_t r_w) const {
    const int64_t p = h * g.width + w, r = r_h * g.width + r_w, place = g.Logit(h, w, r_h, r_w, own);
    if (place < 0) return Outside(g, n, p, r);
    const Sum<T> logit = mask[n * g.mask_size + place];
    return g.softmax ? Exp(logit - statistics[n * 2 * g.HW + (of_p ? p : r)]) : logit;
  }
};

// row_sums[n, c, h] = the sum of a map row's values, each times what it counts where it is not reached but for p's part of it.
template <typename T>
__global__ void SumRows(const T* values, Weights<T> weights, DeviceGeometry g, Sum<T>* row_sums) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= g.batch * g.channels * g.height) return;
  const int64_t n = k / g.height / g.channels, row = k % g.height * g.width;
  Sum<T> sum = 0;
  for (int64_t w = 0; w < g.width; ++w) {
    const Sum<T> factor = weights.of_p ? 1 : weights.Outside(g, n, 0, row + w) * weights.RFactor(g, n, row + w);
    sum += factor * Sum<T>(values[k * g.width + w]);
  }
  row_sums[k] = sum;
}

// out[n, c, p] = the sum over r of values[n, c, r] times the weight of p and r, for kTile p of a map row and kTile channels.
template <typename T>
__global__ void SumValues(const T* values, Weights<T> weights, const Sum<T>* row_sums, DeviceGeometry g, T* out) {
  using S = Sum<T>;
  __shared__ S value_tile[kDepth][kTile + 1], weight_tile[kDepth][kTile + 1];
  const int64_t tiles = (g.width + kTile - 1) / kTile;
  const int64_t n = blockIdx.z, h = blockIdx.x / tiles, first_w = blockIdx.x % tiles * kTile;
  const int64_t first_c = int64_t(blockIdx.y) * kTile;
  const int x = threadIdx.x, y = threadIdx.y, thread = y * kSide + x;
  S sums[kEach][kEach] = {};  // channel, position

  for (int64_t r_h = 0; r_h < g.height; ++r_h) {
    if (r_h < g.FirstRow(h) || r_h >= g.EndRow(h)) {
      for (int a = 0; a < kEach; ++a)
        for (int b = 0; b < kEach; ++b) {
          const int64_t c = first_c + y + a * kSide, w = first_w + x + b * kSide;
          if (c >= g.channels || w >= g.width) continue;
          const S factor = weights.of_p ? weights.Outside(g, n, h * g.width + w, 0) : S(1);
          sums[a][b] += factor * row_sums[(n * g.channels + c) * g.height + r_h];
        }
      continue;
    }
    for (int64_t first_r = 0; first_r < g.width; first_r += kDepth) {
      for (int k = thread; k < kDepth * kTile; k += kThreads) {
        const int64_t c = first_c + k / kDepth, r_w = first_r + k % kDepth, r = r_h * g.width + r_w;
        const bool exists = c < g.channels && r_w < g.width;
        value_tile[k % kDepth][k / kDepth] =
            exists ? S(values[(n * g.channels + c) * g.HW + r]) * weights.RFactor(g, n, r) : S(0);
      }
      // Neighbouring threads take neighbouring elements of the mask: those of one distance between r and p.
      const int diagonals = g.compact ? kTile : kTile + kDepth - 1;
      for (int k = thread; k < kDepth * diagonals; k += kThreads) {
        const int depth = g.compact ? k / kTile : k % kDepth;
        const int column = g.compact ? k % kTile : k / kDepth + depth - (kDepth - 1);
        if (column < 0 || column >= kTile) continue;
        const int64_t w = first_w + column, r_w = first_r + depth;
        weight_tile[depth][column] = w < g.width && r_w < g.width ? weights.Weight(g, n, h, w, r_h, r_w) : S(0);
      }
      __syncthreads();
      for (int k = 0; k < kDepth; ++k)
        for (int a = 0; a < kEach; ++a)
          for (int b = 0; b < kEach; ++b) sums[a][b] += value_tile[k][y + a * kSide] * weight_tile[k][x + b * kSide];
      __syncthreads();
    }
  }
  for (int a = 0; a < kEach; ++a)
    for (int b = 0; b < kEach; ++b) {
      const int64_t c = first_c + y + a * kSide, w = first_w + x + b * kSide, p = h * g.width + w;
      if (c < g.channels && w < g.width) out[(n * g.channels + c) * g.HW + p] = T(sums[a][b] * weights.PFactor(g, n, p));
    }
}

// The gradient of the logits between kTile p of a map row and kTile r of another, which is zero where there are none.
template <typename T>
__global__ void MaskGradient(const T* values, const T* grad_out, Weights<T> weights, const Sum<T>* means, DeviceGeometry g,
                             T* grad_mask) {
  using S = Sum<T>;
  __shared__ S shared[kTile][kTile + 1];  // for values and grad_out, afterwards for their products
  S(*value_tile)[kTile + 1] = shared, (*grad_tile)[kTile + 1] = shared + kDepth;
  const int64_t tiles = (g.width + kTile - 1) / kTile;
  const int64_t n = blockIdx.z, h = blockIdx.x / tiles, first_w = blockIdx.x % tiles * kTile;
  const int64_t r_h = blockIdx.y / tiles, first_r = blockIdx.y % tiles * kTile;
  if (r_h < g.FirstRow(h) || r_h >= g.EndRow(h)) return;  // by the whole block
  const int x = threadIdx.x, y = threadIdx.y, thread = y * kSide + x;
  S products[kEach][kEach] = {};  // r, p

  for (int64_t first_c = 0; first_c < g.channels; first_c += kDepth) {
    for (int k = thread; k < kDepth * kTile; k += kThreads) {
      const int64_t c = first_c + k / kTile, place = (n * g.channels + c) * g.HW;
      const int64_t r_w = first_r + k % kTile, w = first_w + k % kTile;
      value_tile[k / kTile][k % kTile] = c < g.channels && r_w < g.width ? S(values[place + r_h * g.width + r_w]) : S(0);
      grad_tile[k / kTile][k % kTile] = c < g.channels && w < g.width ? S(grad_out[place + h * g.width + w]) : S(0);
    }
    __syncthreads();
    for (int k = 0; k < kDepth; ++k)
      for (int a = 0; a < kEach; ++a)
        for (int b = 0; b < kEach; ++b) products[a][b] += value_tile[k][y + a * kSide] * grad_tile[k][x + b * kSide];
    __syncthreads();
  }
  for (int a = 0; a < kEach; ++a)
    for (int b = 0; b < kEach; ++b) shared[y + a * kSide][x + b * kSide] = products[a][b];
  __syncthreads();

  // Neighbouring threads write neighbouring elements: those of one distance between r and p.
  const int diagonals = g.compact ? kTile : 2 * kTile - 1;
  for (int k = thread; k < diagonals * kTile; k += kThreads) {
    const int column = k % kTile, row = g.compact ? k / kTile : column + k / kTile - (kTile - 1);
    const int64_t w = first_w + column, r_w = first_r + row;
    if (row < 0 || row >= kTile || w >= g.width || r_w >= g.width) continue;
    const int64_t p = h * g.width + w, place = g.Logit(h, w, r_h, r_w, weights.own);
    if (place < 0) continue;
    const S weight = weights.Weight(g, n, h, w, r_h, r_w) * weights.PFactor(g, n, p), product = shared[row][column];
    grad_mask[n * g.mask_size + place] = T(g.softmax ? weight * (product - means[n * g.HW + p]) : product);
  }
}

// Parts of the workspace.
template <typename T>
struct Workspace {
  Workspace(void* memory, const DeviceGeometry& g)
      : outside((Sum<T>*)memory),
        inverse(outside + g.batch * g.HW),
        means(inverse + g.batch * g.HW),
        row_sums(means + g.batch * g.HW) {}
  static int64_t Size(const DeviceGeometry& g) {
    return (3 * g.batch * g.HW + g.batch * g.channels * g.height) * sizeof(Sum<T>);
  }
  Sum<T>*outside, *inverse, *means, *row_sums;
};

unsigned Blocks(int64_t count, int64_t size) { return unsigned((count + size - 1) / size); }

template <typename T>
void RunSum(const void* values, const Weights<T>& weights, const DeviceGeometry& g, Sum<T>* row_sums, void* out,
            cudaStream_t stream) {
  const dim3 threads(kSide, kSide), blocks(g.height * Blocks(g.width, kTile), Blocks(g.channels, kTile), g.batch);
  SumRows<T><<<Blocks(g.batch * g.channels * g.height, 256), 256, 0, stream>>>((const T*)values, weights, g, row_sums);
  SumValues<T><<<blocks, threads, 0, stream>>>((const T*)values, weights, row_sums, g, (T*)out);
}

template <typename T>
int Forward(const void* value, const void* mask, void* out, void* statistics, void* memory, const DeviceGeometry& g,
            cudaStream_t stream) {
  const Workspace<T> space(memory, g);
  const dim3 threads(kColumns, kSide), blocks(Blocks(g.HW, kColumns), g.batch);
  const bool own = !g.distribute;
  Statistics<T><<<blocks, threads, 0, stream>>>((const T*)mask, g, own, (Sum<T>*)statistics, space.outside, space.inverse);
  const Weights<T> weights{(const T*)mask, (const Sum<T>*)statistics, space.outside, space.inverse, own, true};
  RunSum<T>(value, weights, g, space.row_sums, out, stream);
  return cudaGetLastError();
}

template <typename T>
int Backward(const void* value, const void* mask, const void* out, const void* statistics, const void* grad_out,
             void* grad_value, void* grad_mask, void* memory, const DeviceGeometry& g, cudaStream_t stream) {
  const Workspace<T> space(memory, g);
  const Sum<T>* found = (const Sum<T>*)statistics;
  const bool own = !g.distribute;
  const dim3 per_position(Blocks(g.HW, 256), g.batch);
  FromStatistics<Sum<T>><<<per_position, 256, 0, stream>>>(found, g, space.outside, space.inverse);
  MeanProducts<T><<<per_position, 256, 0, stream>>>((const T*)out, (const T*)grad_out, g, space.means);
  const Weights<T> of_value{(const T*)mask, found, space.outside, space.inverse, !own, false};
  RunSum<T>(grad_out, of_value, g, space.row_sums, grad_value, stream);

  const int64_t tiles = g.height * Blocks(g.width, kTile);
  const dim3 threads(kSide, kSide), blocks(tiles, tiles, g.batch);
  const Weights<T> of_mask{(const T*)mask, found, space.outside, space.inverse, own, true};
  cudaMemsetAsync(grad_mask, 0, g.batch * g.mask_size * sizeof(T), stream);  // also where masks reach out of the map
  MaskGradient<T><<<blocks, threads, 0, stream>>>((const T*)value, (const T*)grad_out, of_mask, space.means, g, (T*)grad_mask);
  return cudaGetLastError();
}

}  // namespace

int64_t psa_attention_workspace_cuda(PsaElement element, PsaAttentionGeometry geometry) {
  return element == PSA_FLOAT64 ? Workspace<double>::Size(DeviceGeometry(geometry))
                                : Workspace<float>::Size(DeviceGeometry(geometry));
}

int psa_attention_forward_cuda(const void* value, const void* mask, void* out, void* statistics, void* workspace,
                               PsaElement element, PsaAttentionGeometry geometry, void* stream) {
  if (geometry.batch * geometry.height * geometry.width == 0) return cudaSuccess;
  const auto forward = element == PSA_FLOAT32   ? Forward<float>
                       : element == PSA_FLOAT64 ? Forward<double>
                       : element == PSA_FLOAT16 ? Forward<__half>
                                                : Forward<__nv_bfloat16>;
  return forward(value, mask, out, statistics, workspace, DeviceGeometry(geometry), (cudaStream_t)stream);
}

int psa_attention_backward_cuda(const void* value, const void* mask, const void* out, const void* statistics,
                                const void* grad_out, void* grad_value, void* grad_mask, void* workspace, PsaElement element,
                                PsaAttentionGeometry geometry, void* stream) {
  if (geometry.batch * geometry.height * geometry.width == 0) return cudaSuccess;
  const auto backward = element == PSA_FLOAT32   ? Backward<float>
                        : element == PSA_FLOAT64 ? Backward<double>
                        : element == PSA_FLOAT16 ? Backward<__half>
                                                 : Backward<__nv_bfloat16>;
  return backward(value, mask, out, statistics, grad_out, grad_value, grad_mask, workspace, DeviceGeometry(geometry),
                  (cudaStream_t)stream);
}
