// The weights exist only as strips. A strip holds those between the positions p in a block of one map row, for which sums are
// taken, and the positions r of one map row, over which they are taken. It has a row for each distance between the columns of
// p and r, and a column for each p. Multiplied with channels-last values, which is nearly all of the work, it makes way for the
// strip of the next map row.
//
// One such sum is the result: p is the position q of psa_attention.h, r is s. The other is the gradient of value: grad_out
// summed with the same weights, where p is s, r is q.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "memory_access.h"
#include "parallel.h"
#include "psa_attention.h"
#include "psa_attention_geometry.h"
#include "simd.h"

using namespace psa;

namespace {

template <typename T>
using Sum = typename SumOf<T>::Type;

// Memory that is not initialized, aligned to cache lines.
template <typename S>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_((S*)std::aligned_alloc(64, CeilDivide(size * sizeof(S) + 1, 64) * 64), std::free) {
    if (!data_) throw std::bad_alloc();
    AdviseHugePages(data_.get(), size * sizeof(S));
  }
  operator S*() const { return data_.get(); }

 private:
  std::unique_ptr<S, decltype(&std::free)> data_;
};

constexpr int64_t kMargin = kTileRows - 1;

// A margin of rows on either side is for tiles: all of a tile's p are multiplied with the r that one of them reaches.
template <typename S>
class Strip {
 public:
  explicit Strip(const Geometry& g) : memory_((g.distances + 2 * kMargin) * kStripColumns) {
    std::fill_n((S*)memory_, (g.distances + 2 * kMargin) * kStripColumns, S(0));  // and so it stays where no p or r is
  }
  // The row, such that p's column is its index.
  S* Row(const Block& block, int64_t distance) const { return memory_ + (kMargin + distance) * kStripColumns - block.begin; }

 private:
  Buffer<S> memory_;
};

// From one element of a strip to that of the next r with the same p, and with the same r to the next p.
constexpr int64_t kNextR = kStripColumns, kNextP = 1 - kStripColumns, kNextPCompact = 1;

template <typename T>
struct Task {
  Geometry g;
  const T* mask;
  // Of [batch, 2, H * W] and [batch, H * W]: a weight is exp(logit - maximum), and `outside` where the mask does not reach.
  Sum<T>*statistics, *outside;
  bool of_p;                       // whether these are taken at p, otherwise at r
  const Sum<T>* values = nullptr;  // of r, channels last

  // For the sum of values.
  const Sum<T>* rest = nullptr;        // see SumRest
  const Sum<T>* out_factor = nullptr;  // of p
  T* out = nullptr;

  // For the gradient of mask.
  const Sum<T>* grad_out = nullptr;  // of p, channels last, divided by the normalizer
  const T* forward_out = nullptr;
  T* grad_mask = nullptr;
};

// The logits in a strip's row, of p's columns from block.Begin to block.End.
template <typename T>
PSA_INLINE void LoadLogits(const Task<T>& task, const Block& block, int64_t r_h, int64_t distance, Sum<T>* row) {
  const Geometry& g = task.g;
  const T* mask = task.mask + block.n * g.MaskSize();
  const T* logits = mask + g.Logit(block.h, r_h, distance);
  const int64_t begin = block.Begin(g, distance), end = block.End(g, distance), step = g.LogitStep();
  const int64_t ahead = distance + kRunsAhead;
  if (step == 1 && ahead < g.distances)
    Prefetch(mask + g.Logit(block.h, r_h, ahead) + block.Begin(g, ahead), block.End(g, ahead) - block.Begin(g, ahead));
  if (step == 1)
    for (int64_t w = begin; w < end; ++w) row[w] = Load(logits[w]);
  else
    for (int64_t w = begin; w < end; ++w) row[w] = Load(logits[w * step]);
}

// A whole strip of exponentials, without softmax of logits.
template <typename T>
PSA_INLINE void LoadWeights(const Task<T>& task, const Block& block, int64_t r_h, const Strip<Sum<T>>& strip) {
  const Geometry& g = task.g;
  for (int64_t distance = 0; distance < g.distances; ++distance) {
    Sum<T>* row = strip.Row(block, distance);
    LoadLogits(task, block, r_h, distance, row);
    if (!g.softmax) continue;
    const int64_t place = task.of_p ? block.h * g.width : r_h * g.width + g.ColumnOfR(distance, 0);
    const Sum<T>* maximum = task.statistics + block.n * 2 * g.Positions() + place;
    const int64_t begin = block.Begin(g, distance), end = block.End(g, distance);
    if (g.compact && !task.of_p)
      for (int64_t w = begin; w < end; ++w) row[w] = Exp(row[w] - *maximum);
    else
      for (int64_t w = begin; w < end; ++w) row[w] = Exp(row[w] - maximum[w]);
  }
}

template <typename T>
PSA_INLINE void FillMargins(const Task<T>& task, const Block& block, int64_t r_h, const Strip<Sum<T>>& strip) {
  const Geometry& g = task.g;
  for (int64_t k = 1; k <= kMargin; ++k)
    for (const int64_t distance : {-k, g.distances - 1 + k}) {
      const int64_t place = task.of_p ? block.h * g.width : r_h * g.width + g.ColumnOfR(distance, 0);
      const Sum<T>* outside = task.outside + block.n * g.Positions() + place;
      const int64_t begin = block.Begin(g, distance), end = block.End(g, distance);
      std::copy(outside + begin, outside + end, strip.Row(block, distance) + begin);
    }
}

// Sets the statistics of a block's positions.
template <class Isa, typename T>
PSA_INLINE void FindStatistics(const Task<T>& task, const Block& block) {
  using S = Sum<T>;
  const Geometry& g = task.g;
  const Strip<S> strip(g);
  S maxima[kStripColumns], sums[kStripColumns], new_maxima[kStripColumns];
  S *maximum = maxima - block.begin, *sum = sums - block.begin, *new_maximum = new_maxima - block.begin;
  for (int64_t w = block.begin; w < block.end; ++w) {
    sum[w] = g.PositionsNotReached(block.h, w);
    maximum[w] = sum[w] > 0 ? 0 : -std::numeric_limits<S>::infinity();
  }
  for (int64_t r_h = g.FirstRow(block.h); r_h < g.EndRow(block.h); ++r_h) {
    std::copy(maximum + block.begin, maximum + block.end, new_maxima);
    for (int64_t distance = 0; distance < g.distances; ++distance) {
      S* row = strip.Row(block, distance);
      LoadLogits(task, block, r_h, distance, row);
      const int64_t end = block.End(g, distance);
      for (int64_t w = block.Begin(g, distance); w < end; ++w)
        new_maximum[w] = new_maximum[w] < row[w] ? row[w] : new_maximum[w];
    }
    for (int64_t w = block.begin; w < block.end; ++w) {
      sum[w] = sum[w] == 0 ? 0 : sum[w] * Exp(maximum[w] - new_maximum[w]);
      maximum[w] = new_maximum[w];
    }
    for (int64_t distance = 0; distance < g.distances; ++distance) {
      const S* row = strip.Row(block, distance);
      const int64_t end = block.End(g, distance);
      for (int64_t w = block.Begin(g, distance); w < end; ++w) sum[w] += Exp(row[w] - maximum[w]);
    }
  }
  S* statistics = task.statistics + block.n * 2 * g.Positions() + block.h * g.width;
  std::copy(maximum + block.begin, maximum + block.end, statistics + block.begin);
  std::copy(sum + block.begin, sum + block.end, statistics + g.Positions() + block.begin);
}

// Starts the sums of a block with the positions that its tiles do not reach.
template <typename T>
void StartSums(const Task<T>& task, const Block& block, Sum<T>* sums) {
  using S = Sum<T>;
  const Geometry& g = task.g;
  const Buffer<S> rest(g.row_channels);
  for (int64_t tile = block.first_tile; tile < block.end_tile; ++tile) {
    std::fill_n((S*)rest, g.row_channels, S(0));
    for (int64_t r_h = 0; task.rest && r_h < g.height; ++r_h) {
      const bool reached = g.FirstRow(block.h) <= r_h && r_h < g.EndRow(block.h);
      const S* row = task.rest + ((block.n * g.height + r_h) * (g.tiles + 1) + (reached ? tile : g.tiles)) * g.row_channels;
      for (int64_t c = 0; c < g.row_channels; ++c) rest[c] += row[c];
    }
    for (int64_t w = tile * kTileRows; w < (tile + 1) * kTileRows; ++w, sums += g.row_stride) {
      const S factor = !task.of_p ? 1 : w < g.width ? task.outside[(block.n * g.height + block.h) * g.width + w] : 0;
      for (int64_t c = 0; c < g.row_channels; ++c) sums[c] = task.rest ? factor * rest[c] : 0;
    }
  }
}

// out of a block's positions = the weighted sum of values.
template <class Isa, typename T>
PSA_INLINE void SumValues(const Task<T>& task, const Block& block) {
  using S = Sum<T>;
  const Geometry& g = task.g;
  const Strip<S> strip(g);
  const Buffer<S> sums((block.end_tile - block.first_tile) * kTileRows * g.row_stride);
  StartSums(task, block, (S*)sums);
  for (int64_t r_h = g.FirstRow(block.h); r_h < g.EndRow(block.h); ++r_h) {
    LoadWeights(task, block, r_h, strip);
    if (!g.covers && g.softmax) FillMargins(task, block, r_h, strip);
    for (int64_t tile = block.first_tile; tile < block.end_tile; ++tile) {
      const int64_t w = tile * kTileRows, first = g.FirstColumn(tile), count = g.EndColumn(tile) - first;
      const S* weights = strip.Row(block, g.compact ? first : first - w + g.reach) + w;
      const S* values = task.values + ((block.n * g.height + r_h) * g.width + first) * g.row_stride;
      S* to = sums + (w - block.begin) * g.row_stride;
      if (g.compact)
        AddWeightedRows<Isa, S, kNextR, kNextPCompact>(weights, values, count, g.row_channels, g.row_stride, to);
      else
        AddWeightedRows<Isa, S, kNextR, kNextP>(weights, values, count, g.row_channels, g.row_stride, to);
    }
  }
  for (int64_t c = 0; c < g.channels; ++c)
    for (int64_t w = block.begin; w < block.end; ++w) {
      const int64_t p = block.h * g.width + w;
      const S factor = task.out_factor ? task.out_factor[block.n * g.Positions() + p] : 1;
      Store(sums[(w - block.begin) * g.row_stride + c] * factor, task.out + (block.n * g.channels + c) * g.Positions() + p);
    }
}

// Zero for the masks of a block's positions where they reach out of the map.
template <typename T>
void ClearOutsideMap(const Task<T>& task, const Block& block) {
  const Geometry& g = task.g;
  if (g.compact) return;
  for (int64_t i = 0; i < g.mask_height; ++i)
    for (int64_t j = 0; j < g.mask_width; ++j) {
      const int64_t row = block.h + i - g.half_h;
      T* to = task.grad_mask + block.n * g.MaskSize() + ((i * g.mask_width + j) * g.height + block.h) * g.width;
      const bool in_map = 0 <= row && row < g.height;
      const int64_t begin = std::min(block.end, std::max(block.begin, g.half_w - j));
      const int64_t end = in_map ? std::max(begin, std::min(block.end, g.width + g.half_w - j)) : begin;
      std::fill(to + block.begin, to + begin, T{});
      std::fill(to + end, to + block.end, T{});
    }
}

// The weighted means of each p's products of value and grad_out, which softmax's gradient takes from them: the products of out
// and grad_out. They are summed in the order of the products, so that nothing remains where one weight is 1.
template <class Isa, typename T>
PSA_INLINE void FindMeanProducts(const Task<T>& task, const Block& block, Sum<T>* means) {
  const Geometry& g = task.g;
  const int64_t columns = block.end - block.begin, p = (block.n * g.height + block.h) * g.width + block.begin;
  const Buffer<Sum<T>> rows(columns * g.row_stride);
  for (int64_t c = 0; c < g.row_channels; ++c) {
    const T* out = task.forward_out + ((block.n * g.channels + c) * g.height + block.h) * g.width + block.begin;
    for (int64_t k = 0; k < columns; ++k) rows[k * g.row_stride + c] = c < g.channels ? Load(out[k]) : 0;
  }
  for (int64_t k = 0; k < columns; ++k)
    DotRows<Isa>(task.grad_out + (p + k) * g.row_stride, 1, rows + k * g.row_stride, 1, g.row_channels, g.row_stride, means + k,
                 0, 0);
}

template <class Isa, typename T>
PSA_INLINE void FindMaskGradient(const Task<T>& task, const Block& block) {
  using S = Sum<T>;
  const Geometry& g = task.g;
  const Strip<S> strip(g), products(g);
  S means[kStripColumns];
  FindMeanProducts<Isa>(task, block, means);
  const S* mean = means - block.begin;
  ClearOutsideMap(task, block);
  for (int64_t r_h = g.FirstRow(block.h); r_h < g.EndRow(block.h); ++r_h) {
    for (int64_t tile = block.first_tile; tile < block.end_tile; ++tile) {
      const int64_t p = tile * kTileRows, p_end = std::min(g.width, p + kTileRows), end = g.EndColumn(tile);
      for (int64_t r = g.FirstColumn(tile); r < end; r += Isa::kDotColumns)
        for (int64_t w = p; w < p_end; w += Isa::kDotRows) {
          const S* left = task.grad_out + ((block.n * g.height + block.h) * g.width + w) * g.row_stride;
          const S* right = task.values + ((block.n * g.height + r_h) * g.width + r) * g.row_stride;
          const int64_t left_count = std::min<int64_t>(Isa::kDotRows, p_end - w);
          const int64_t right_count = std::min<int64_t>(Isa::kDotColumns, end - r);
          S* to = products.Row(block, g.compact ? r : r - w + g.reach) + w;
          DotRows<Isa>(left, left_count, right, right_count, g.row_channels, g.row_stride, to, kNextR,
                       g.compact ? kNextPCompact : kNextP);
        }
    }
    LoadWeights(task, block, r_h, strip);
    for (int64_t distance = 0; distance < g.distances; ++distance) {
      T* to = task.grad_mask + block.n * g.MaskSize() + g.Logit(block.h, r_h, distance);
      const int64_t step = g.LogitStep(), end = block.End(g, distance);
      const S *weight = strip.Row(block, distance), *product = products.Row(block, distance);
      for (int64_t w = block.Begin(g, distance); w < end; ++w)
        Store(g.softmax ? weight[w] * (product[w] - mean[w]) : product[w], to + w * step);
    }
  }
}

enum class Step { kStatistics, kSum, kMaskGradient };

template <class Isa, typename T>
PSA_INLINE void RunStep(Step step, const Task<T>& task, int64_t index) {
  const Block block(task.g, index);
  if (step == Step::kStatistics) FindStatistics<Isa>(task, block);
  if (step == Step::kSum) SumValues<Isa>(task, block);
  if (step == Step::kMaskGradient) FindMaskGradient<Isa>(task, block);
}

// The best instruction set to use: 0 is what every processor of the kind has, 1 AVX2, 2 AVX-512. Tests lower it.
#ifndef PSA_INSTRUCTIONS
#define PSA_INSTRUCTIONS 2
#endif

template <typename T>
void RunBaseline(Step step, const Task<T>& task, int64_t index) {
  RunStep<Baseline>(step, task, index);
}

#if defined(__x86_64__)
template <typename T>
__attribute__((target("avx2,fma"))) void RunAvx2(Step step, const Task<T>& task, int64_t index) {
  RunStep<Avx2>(step, task, index);
}

template <typename T>
__attribute__((target("avx512f,prefer-vector-width=512"))) void RunAvx512(Step step, const Task<T>& task, int64_t index) {
  RunStep<Avx512>(step, task, index);
}
#endif

template <typename T>
void Run(Step step, const Task<T>& task) {
  auto run = RunBaseline<T>;
#if defined(__x86_64__)
  if (PSA_INSTRUCTIONS >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run = RunAvx2<T>;
  if (PSA_INSTRUCTIONS >= 2 && __builtin_cpu_supports("avx512f")) run = RunAvx512<T>;
#endif
  ParallelFor(task.g.batch * task.g.height * task.g.blocks_in_row, [&](int64_t index) { run(step, task, index); });
}

// Calls body(n, begin, end) for pieces of each sample's positions.
template <class Body>
void ForPositions(const Geometry& g, Body body) {
  const int64_t kPositions = 64, pieces = CeilDivide(g.Positions(), kPositions);
  ParallelFor(g.batch * pieces, [&](int64_t k) {
    const int64_t begin = k % pieces * kPositions;
    body(k / pieces, begin, std::min(g.Positions(), begin + kPositions));
  });
}

// rows = x [batch, channels, H, W] * factor [batch, H, W], channels last; no factor where it is null.
template <typename T>
void ToRows(const Geometry& g, const T* x, const Sum<T>* factor, Sum<T>* rows) {
  ForPositions(g, [&](int64_t n, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < g.row_channels; ++c)
      for (int64_t p = begin; p < end; ++p) {
        Sum<T> value = c < g.channels ? Load(x[(n * g.channels + c) * g.Positions() + p]) : Sum<T>(0);
        if (factor) value *= factor[n * g.Positions() + p];
        rows[(n * g.Positions() + p) * g.row_stride + c] = value;
      }
  });
}

// For each map row of r, the sum of its values that each tile does not reach, and of all of them:
// rest [batch, H, tiles + 1, row_channels]. They are added, not subtracted from the sum of all, where they could cancel out.
template <typename T>
void SumRest(const Task<T>& task, Sum<T>* rest) {
  using S = Sum<T>;
  const Geometry& g = task.g;
  ParallelFor(g.batch * g.height, [&](int64_t row) {
    const Buffer<S> sum(g.row_channels);
    const auto add = [&](int64_t w) {
      const S* value = task.values + (row * g.width + w) * g.row_stride;
      const S factor = task.of_p ? 1 : task.outside[row * g.width + w];
      for (int64_t c = 0; c < g.row_channels; ++c) sum[c] += factor * value[c];
    };
    S* to = rest + row * (g.tiles + 1) * g.row_channels;
    std::fill_n((S*)sum, g.row_channels, S(0));
    for (int64_t tile = 0, w = 0; tile < g.tiles; ++tile) {
      while (w < g.FirstColumn(tile)) add(w++);
      std::copy_n((S*)sum, g.row_channels, to + tile * g.row_channels);
    }
    std::fill_n((S*)sum, g.row_channels, S(0));
    int64_t w = g.width;
    for (int64_t tile = g.tiles - 1; tile >= 0; --tile) {
      while (w > g.EndColumn(tile)) add(--w);
      for (int64_t c = 0; c < g.row_channels; ++c) to[tile * g.row_channels + c] += sum[c];
    }
    while (w > 0) add(--w);
    std::copy_n((S*)sum, g.row_channels, to + g.tiles * g.row_channels);
  });
}

template <typename T>
void RunSum(Task<T> task) {
  const Geometry& g = task.g;
  const bool has_rest = g.softmax && !g.covers;
  const Buffer<Sum<T>> rest(has_rest ? g.batch * g.height * (g.tiles + 1) * g.row_channels : 0);
  if (has_rest) {
    SumRest(task, (Sum<T>*)rest);
    task.rest = rest;
  }
  Run(Step::kSum, task);
}

// factor = 1 / normalizer and outside = the exponential of positions that are not reached, both [batch, H, W].
template <typename S>
void FromStatistics(const Geometry& g, const S* statistics, S* factor, S* outside) {
  for (int64_t k = 0; k < g.batch * g.Positions(); ++k) {
    const int64_t p = k % g.Positions();
    const S* maximum = statistics + k + (k - p);
    const bool all = !g.softmax || g.PositionsNotReached(p / g.width, p % g.width) == 0;
    factor[k] = 1 / maximum[g.Positions()];
    outside[k] = all ? 0 : Exp(-*maximum);
  }
}

template <typename T>
void Forward(const void* value, const void* mask, void* out, void* statistics, const PsaAttentionGeometry& geometry) {
  using S = Sum<T>;
  const Geometry g(geometry, !geometry.distribute);
  const int64_t positions = g.batch * g.Positions();
  const Buffer<S> factor(positions), outside(positions), values(positions * g.row_stride);
  Task<T> task{g, (const T*)mask, (S*)statistics, outside, true};
  if (g.softmax) {
    Run(Step::kStatistics, task);
  } else {
    for (int64_t k = 0; k < 2 * positions; ++k) task.statistics[k] = k / g.Positions() % 2;
  }
  FromStatistics<S>(g, task.statistics, factor, outside);
  ToRows(g, (const T*)value, (const S*)nullptr, (S*)values);
  task.values = values;
  task.out_factor = factor;
  task.out = (T*)out;
  AdviseHugePages(out, positions * g.channels * sizeof(T));
  RunSum(task);
}

template <typename T>
void Backward(const void* value, const void* mask, const void* out, const void* statistics, const void* grad_out,
              void* grad_value, void* grad_mask, const PsaAttentionGeometry& geometry) {
  using S = Sum<T>;
  const Geometry g(geometry, !geometry.distribute), other(geometry, geometry.distribute);
  const int64_t positions = g.batch * g.Positions();
  const Buffer<S> factor(positions), outside(positions), grad_outs(positions * g.row_stride);
  FromStatistics(g, (const S*)statistics, (S*)factor, (S*)outside);
  ToRows(g, (const T*)grad_out, (const S*)factor, (S*)grad_outs);

  Task<T> of_value{other, (const T*)mask, (S*)statistics, outside, false};
  of_value.values = grad_outs;
  of_value.out = (T*)grad_value;
  AdviseHugePages(grad_value, positions * g.channels * sizeof(T));
  RunSum(of_value);

  const Buffer<S> values(positions * g.row_stride);
  ToRows(g, (const T*)value, (const S*)nullptr, (S*)values);
  Task<T> of_mask{g, (const T*)mask, (S*)statistics, outside, true};
  of_mask.values = values;
  of_mask.grad_out = grad_outs;
  of_mask.forward_out = (const T*)out;
  of_mask.grad_mask = (T*)grad_mask;
  AdviseHugePages(grad_mask, g.batch * g.MaskSize() * sizeof(T));
  Run(Step::kMaskGradient, of_mask);
}

}  // namespace

void psa_attention_forward_cpu(const void* value, const void* mask, void* out, void* statistics, PsaElement element,
                               PsaAttentionGeometry geometry) {
  if (geometry.batch * geometry.height * geometry.width == 0) return;
  const auto forward = element == PSA_FLOAT32   ? Forward<float>
                       : element == PSA_FLOAT64 ? Forward<double>
                       : element == PSA_FLOAT16 ? Forward<Half>
                                                : Forward<BFloat16>;
  forward(value, mask, out, statistics, geometry);
}

void psa_attention_backward_cpu(const void* value, const void* mask, const void* out, const void* statistics,
                                const void* grad_out, void* grad_value, void* grad_mask, PsaElement element,
                                PsaAttentionGeometry geometry) {
  if (geometry.batch * geometry.height * geometry.width == 0) return;
  const auto backward = element == PSA_FLOAT32   ? Backward<float>
                        : element == PSA_FLOAT64 ? Backward<double>
                        : element == PSA_FLOAT16 ? Backward<Half>
                                                 : Backward<BFloat16>;
  backward(value, mask, out, statistics, grad_out, grad_value, grad_mask, geometry);
}
