// Whoever goes along the rows of out meets the diagonals of x, and the other way round. So a block moves a tile through shared
// memory: first neighbouring threads read neighbouring elements, then neighbouring threads write neighbouring elements. Every
// element of the result is written once: no zeroing beforehand, no two writers.
#include <cuda_runtime.h>

#include <algorithm>

#include "psamask.h"

namespace {

constexpr int kTile = 32, kThreads = 256, kStep = kThreads / kTile;
constexpr int kPitch = kTile + 2;  // neither a column nor a diagonal of a tile has all its elements in one bank

__host__ __device__ int64_t CeilDivide(int64_t x, int64_t y) { return (x + y - 1) / y; }

// Takes the last of the indices out of a flat one.
__device__ int64_t NextIndex(int64_t& flat, int64_t count) {
  const int64_t index = flat % count;
  flat /= count;
  return index;
}

template <typename T>
__global__ void Forward(const T* x, T* out, PsaMaskGeometry g) {
  __shared__ T tile[kTile][kPitch];
  const int64_t H = g.height, W = g.width, HW = H * W, tiles = CeilDivide(W, kTile);
  int64_t flat = blockIdx.x;
  // Feature-indexed: a tile of out [n, row, column] with one row_h and one column_h.
  const int64_t column_w0 = NextIndex(flat, tiles) * kTile, column_h = NextIndex(flat, H);
  const int64_t row_w0 = NextIndex(flat, tiles) * kTile, row_h = NextIndex(flat, H), n = flat;
  const int lane = threadIdx.x % kTile, first = threadIdx.x / kTile;

  // Mask-indexed: the mask around (h, w) reaches the target at (i, j).
  const int64_t h = g.distribute ? row_h : column_h, i = (g.distribute ? column_h : row_h) - h + g.mask_height / 2;
  for (int y = first; y < kTile; y += kStep) {
    const int row = (y + lane) % kTile;  // along the diagonal j is the same
    const int64_t row_w = row_w0 + row, column_w = column_w0 + lane;
    const int64_t w = g.distribute ? row_w : column_w, j = (g.distribute ? column_w : row_w) - w + g.mask_width / 2;
    const bool reached = 0 <= i && i < g.mask_height && 0 <= j && j < g.mask_width && row_w < W && column_w < W;
    tile[row][lane] = reached ? x[((n * g.mask_height + i) * g.mask_width + j) * HW + h * W + w] : T(0);
  }
  __syncthreads();
  for (int row = first; row < kTile; row += kStep) {
    const int64_t row_w = row_w0 + row, column_w = column_w0 + lane;
    if (row_w < W && column_w < W) out[(n * HW + row_h * W + row_w) * HW + column_h * W + column_w] = tile[row][lane];
  }
}

template <typename T>
__global__ void Backward(const T* grad_out, T* grad_x, PsaMaskGeometry g) {
  __shared__ T tile[kTile][kPitch];
  const int64_t H = g.height, W = g.width, HW = H * W;
  int64_t flat = blockIdx.x;
  // Mask-indexed: a tile of grad_x [n, i, j, h, w] with one i and one h.
  const int64_t w0 = NextIndex(flat, CeilDivide(W, kTile)) * kTile, h = NextIndex(flat, H);
  const int64_t j0 = NextIndex(flat, CeilDivide(g.mask_width, kTile)) * kTile, i = NextIndex(flat, g.mask_height), n = flat;
  const int lane = threadIdx.x % kTile, first = threadIdx.x / kTile;

  // Feature-indexed: it lies over the target (h + i - half_h, w + j - half_w).
  const int64_t target_h = h + i - g.mask_height / 2;
  for (int y = first; y < kTile; y += kStep) {
    const int tile_j = g.distribute ? lane : (y + kTile - lane) % kTile, tile_w = g.distribute ? y : lane;  // along a row
    const int64_t j = j0 + tile_j, w = w0 + tile_w, target_w = w + j - g.mask_width / 2;
    const bool inside = j < g.mask_width && w < W && 0 <= target_h && target_h < H && 0 <= target_w && target_w < W;
    const int64_t position = h * W + w, target = target_h * W + target_w;
    const int64_t row = g.distribute ? position : target, column = g.distribute ? target : position;
    tile[tile_j][tile_w] = inside ? grad_out[(n * HW + row) * HW + column] : T(0);
  }
  __syncthreads();
  for (int y = first; y < kTile; y += kStep) {
    const int64_t j = j0 + y, w = w0 + lane;
    if (j < g.mask_width && w < W) grad_x[((n * g.mask_height + i) * g.mask_width + j) * HW + h * W + w] = tile[y][lane];
  }
}

template <typename T>
int Launch(void (*kernel)(const T*, T*, PsaMaskGeometry), int64_t blocks, const void* from, void* to, const PsaMaskGeometry& g,
           void* stream) {
  const unsigned grid = std::min<int64_t>(blocks, UINT32_MAX);  // more than 2^31 - 1 fail, as they must not be cut off
  if (grid > 0) kernel<<<grid, kThreads, 0, (cudaStream_t)stream>>>((const T*)from, (T*)to, g);
  return cudaGetLastError();
}

}  // namespace

int psamask_forward_cuda(const void* x, void* out, int element_size, PsaMaskGeometry g, void* stream) {
  const int64_t rows = g.height * CeilDivide(g.width, kTile), blocks = g.batch * rows * rows;
  if (element_size == 2) return Launch(Forward<uint16_t>, blocks, x, out, g, stream);
  if (element_size == 4) return Launch(Forward<uint32_t>, blocks, x, out, g, stream);
  if (element_size == 8) return Launch(Forward<uint64_t>, blocks, x, out, g, stream);
  return cudaErrorInvalidValue;
}

int psamask_backward_cuda(const void* grad_out, void* grad_x, int element_size, PsaMaskGeometry g, void* stream) {
  const int64_t tiles = CeilDivide(g.mask_width, kTile) * CeilDivide(g.width, kTile);
  const int64_t blocks = g.batch * g.mask_height * g.height * tiles;
  if (element_size == 2) return Launch(Backward<uint16_t>, blocks, grad_out, grad_x, g, stream);
  if (element_size == 4) return Launch(Backward<uint32_t>, blocks, grad_out, grad_x, g, stream);
  if (element_size == 8) return Launch(Backward<uint64_t>, blocks, grad_out, grad_x, g, stream);
  return cudaErrorInvalidValue;
}
