// A pair of map rows, that of positions (h, w) and that of their targets, is a tile of out: width x width elements, of which
// those that the mask reaches are mask_width runs of x. Either x or out would have to be gone through along diagonals; that is
// done in a copy of the tile, which the cache holds, so that whole runs are read from memory and written to it.
#include <algorithm>
#include <cstring>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "memory_access.h"
#include "parallel.h"
#include "psamask.h"

using namespace psa;

namespace {

// Writes past the cache where it can, to be followed by FinishWrites(). What is written is read much later.
template <typename T>
void Write(const T* from, int64_t count, T* to) {
#ifdef __SSE2__
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0 && count * sizeof(T) % 16 == 0) {
    for (int64_t k = 0; k < count; k += 16 / sizeof(T))
      _mm_stream_si128((__m128i*)(to + k), _mm_loadu_si128((const __m128i*)(from + k)));
    return;
  }
#endif
  std::memcpy(to, from, count * sizeof(T));
}

void FinishWrites() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// to[k * to_step] = from[k * from_step]. One of the steps is 1, the other a diagonal's.
template <typename T>
void CopyDiagonal(const T* from, int64_t from_step, T* to, int64_t to_step, int64_t count) {
#pragma GCC unroll 8
  for (int64_t k = 0; k < count; ++k) to[k * to_step] = from[k * from_step];
}

struct Tile {
  explicit Tile(const PsaMaskGeometry& g) : width(g.width), half_w(g.mask_width / 2), distribute(g.distribute) {}

  // The element for mask column j and position w is at Place(j, w). Its target, w + j - half_w, is on the map for
  // Begin(j) <= w < End(j).
  int64_t Place(int64_t j, int64_t w) const { return (j - half_w) * (distribute ? 1 : width) + w * Step(); }
  int64_t Step() const { return width + 1; }
  int64_t Begin(int64_t j) const { return std::min(width, std::max<int64_t>(0, half_w - j)); }
  int64_t End(int64_t j) const { return std::max(Begin(j), std::min(width, width + half_w - j)); }
  // The part of a row that the mask reaches.
  int64_t FirstColumn(int64_t row) const { return std::max<int64_t>(0, row - half_w); }
  int64_t EndColumn(int64_t row) const { return std::min(width, row + half_w + 1); }

  int64_t width, half_w;
  bool distribute;
};

template <typename T>
void Forward(const T* x, T* out, const PsaMaskGeometry& g) {
  const int64_t W = g.width, HW = g.height * W, half_h = g.mask_height / 2;
  AdviseHugePages(out, g.batch * HW * HW * sizeof(T));
  ParallelFor(g.batch * g.height, [=](int64_t k) {
    const Tile tile(g);
    const int64_t n = k / g.height, row_h = k % g.height;
    const int64_t first = std::max<int64_t>(0, row_h - half_h), end = std::min(g.height, row_h + half_h + 1);
    T* rows = out + (n * HW + row_h * W) * HW;
    for (int64_t row = 0; row < W; ++row) {
      std::fill(rows + row * HW, rows + row * HW + first * W, T(0));
      std::fill(rows + row * HW + end * W, rows + (row + 1) * HW, T(0));
    }
    std::vector<T> copy(W * W);  // zero, and so it stays where the mask does not reach
    for (int64_t column_h = first; column_h < end; ++column_h) {
      const int64_t h = g.distribute ? row_h : column_h, i = (g.distribute ? column_h - row_h : row_h - column_h) + half_h;
      const T* from = x + (n * g.mask_height + i) * g.mask_width * HW + h * W;
      for (int64_t j = 0; j < g.mask_width; ++j, from += HW) {
        if (j + kRunsAhead < g.mask_width) Prefetch(from + kRunsAhead * HW, W);
        const int64_t begin = tile.Begin(j);
        CopyDiagonal(from + begin, 1, copy.data() + tile.Place(j, begin), tile.Step(), tile.End(j) - begin);
      }
      for (int64_t row = 0; row < W; ++row) Write(copy.data() + row * W, W, rows + row * HW + column_h * W);
    }
    FinishWrites();
  });
}

template <typename T>
void Backward(const T* grad_out, T* grad_x, const PsaMaskGeometry& g) {
  const int64_t W = g.width, HW = g.height * W, half_h = g.mask_height / 2;
  AdviseHugePages(grad_x, g.batch * g.mask_height * g.mask_width * HW * sizeof(T));
  ParallelFor(g.batch * g.height, [=](int64_t k) {
    const Tile tile(g);
    const int64_t n = k / g.height, h = k % g.height;
    std::vector<T> copy(W * W), run(W);
    for (int64_t i = 0; i < g.mask_height; ++i) {
      const int64_t target_h = h + i - half_h;
      const bool on_map = 0 <= target_h && target_h < g.height;
      const int64_t row_h = g.distribute ? h : target_h, column_h = g.distribute ? target_h : h;
      const T* from = grad_out + (n * HW + row_h * W) * HW + column_h * W;
      for (int64_t row = 0; on_map && row < W; ++row, from += HW) {
        const int64_t first = tile.FirstColumn(row), end = tile.EndColumn(row);
        if (row + kRunsAhead < W) Prefetch(from + kRunsAhead * HW + first, end - first);
        std::copy(from + first, from + end, copy.data() + row * W + first);
      }
      T* to = grad_x + (n * g.mask_height + i) * g.mask_width * HW + h * W;
      for (int64_t j = 0; j < g.mask_width; ++j, to += HW) {
        const int64_t begin = on_map ? tile.Begin(j) : W, end = on_map ? tile.End(j) : W;
        std::fill(run.begin(), run.begin() + begin, T(0));
        CopyDiagonal(copy.data() + tile.Place(j, begin), tile.Step(), run.data() + begin, 1, end - begin);
        std::fill(run.begin() + end, run.end(), T(0));
        Write(run.data(), W, to);
      }
    }
    FinishWrites();
  });
}

}  // namespace

void psamask_forward_cpu(const void* x, void* out, int element_size, PsaMaskGeometry geometry) {
  if (element_size == 2) Forward((const uint16_t*)x, (uint16_t*)out, geometry);
  if (element_size == 4) Forward((const uint32_t*)x, (uint32_t*)out, geometry);
  if (element_size == 8) Forward((const uint64_t*)x, (uint64_t*)out, geometry);
}

void psamask_backward_cpu(const void* grad_out, void* grad_x, int element_size, PsaMaskGeometry geometry) {
  if (element_size == 2) Backward((const uint16_t*)grad_out, (uint16_t*)grad_x, geometry);
  if (element_size == 4) Backward((const uint32_t*)grad_out, (uint32_t*)grad_x, geometry);
  if (element_size == 8) Backward((const uint64_t*)grad_out, (uint64_t*)grad_x, geometry);
}
