// For a pair of rows of the feature map, out is a tile of width x width elements, each row contiguous, and x a tile of
// mask_width x width. One tile is read along diagonals while the other is written row by row; going block by block keeps the
// lines of the diagonals in the cache, also where the rows of a tile are a power of two apart.
#include <algorithm>

#include "psamask.h"

namespace {

constexpr int64_t kBlock = 32;

// Sets to[k], begin <= k < end, to from[k * step] where low <= k < high and to 0 elsewhere.
template <typename T>
void CopyRun(const T* from, int64_t step, T* to, int64_t begin, int64_t end, int64_t low, int64_t high) {
  low = std::min(std::max(low, begin), end);
  high = std::max(std::min(high, end), low);
  std::fill(to + begin, to + low, T(0));
  for (int64_t k = low; k < high; ++k) to[k] = from[k * step];
  std::fill(to + high, to + end, T(0));
}

// Calls body(row, first column, end column) for the part of each row in each block.
template <typename Body>
void ForEachBlock(int64_t rows, int64_t columns, Body body) {
  for (int64_t r = 0; r < rows; r += kBlock)
    for (int64_t c = 0; c < columns; c += kBlock)
      for (int64_t row = r; row < std::min(r + kBlock, rows); ++row) body(row, c, std::min(c + kBlock, columns));
}

// Mask-indexed: (i, j). Feature-indexed: (h, w) and its target (h + i - half_h, w + j - half_w), which are the column and the
// row of out in collect, the row and the column in distribute.

template <typename T>
void Forward(const T* x, T* out, const PsaMaskGeometry& g) {
  const int64_t H = g.height, W = g.width, HW = H * W, half_h = g.mask_height / 2, half_w = g.mask_width / 2;
#pragma omp parallel for
  for (int64_t tile = 0; tile < g.batch * H * H; ++tile) {
    const int64_t n = tile / (H * H), row_h = tile / H % H, column_h = tile % H;
    const int64_t h = g.distribute ? row_h : column_h, target_h = g.distribute ? column_h : row_h;
    const int64_t i = target_h - h + half_h;
    // Reads x at (i, j = target_w - w + half_w), (h, w): it moves by these steps with target_w and with w.
    const T* from = x + ((n * g.mask_height + i) * g.mask_width + half_w) * HW + h * W;
    const int64_t target_w_step = HW, w_step = 1 - HW;
    const int64_t row_step = g.distribute ? w_step : target_w_step, column_step = g.distribute ? target_w_step : w_step;
    const int64_t reach = 0 <= i && i < g.mask_height ? half_w : -1;  // |row - column| <= reach
    T* to = out + (n * HW + row_h * W) * HW + column_h * W;
    ForEachBlock(W, W, [=](int64_t row, int64_t begin, int64_t end) {
      CopyRun(from + row * row_step, column_step, to + row * HW, begin, end, row - reach, row + reach + 1);
    });
  }
}

template <typename T>
void Backward(const T* grad_out, T* grad_x, const PsaMaskGeometry& g) {
  const int64_t H = g.height, W = g.width, HW = H * W, half_h = g.mask_height / 2, half_w = g.mask_width / 2;
#pragma omp parallel for
  for (int64_t tile = 0; tile < g.batch * g.mask_height * H; ++tile) {
    const int64_t n = tile / (g.mask_height * H), i = tile / H % g.mask_height, h = tile % H;
    const int64_t target_h = h + i - half_h;
    // Reads grad_out at (h, w), (target_h, target_w = w + j - half_w): it moves by these steps with j and with w.
    const int64_t row_h = g.distribute ? h : target_h, column_h = g.distribute ? target_h : h;
    const int64_t j_step = g.distribute ? 1 : HW, w_step = HW + 1;
    const T* from = grad_out + (n * HW + row_h * W) * HW + column_h * W - half_w * j_step;
    const int64_t targets = 0 <= target_h && target_h < H ? W : 0;  // 0 <= target_w < targets
    T* to = grad_x + (n * g.mask_height + i) * g.mask_width * HW + h * W;
    ForEachBlock(g.mask_width, W, [=](int64_t j, int64_t begin, int64_t end) {
      CopyRun(from + j * j_step, w_step, to + j * HW, begin, end, half_w - j, targets + half_w - j);
    });
  }
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
