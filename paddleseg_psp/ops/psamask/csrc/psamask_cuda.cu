// One thread for each element of the result, which it computes alone: no zeroing beforehand, no two writers, and
// neighbouring threads write neighbouring elements.
#include <cuda_runtime.h>

#include <algorithm>

#include "psamask.h"

namespace {

constexpr int kThreads = 256;

__device__ int64_t FirstElement() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ int64_t Stride() { return int64_t(gridDim.x) * blockDim.x; }

template <typename T>
__global__ void Forward(const T* x, T* out, int64_t count, PsaMaskGeometry g) {
  const int64_t W = g.width, HW = g.height * W;
  for (int64_t k = FirstElement(); k < count; k += Stride()) {
    // Feature-indexed: out [n, row, column], whose two positions are (h, w) and its target.
    const int64_t n = k / (HW * HW), row = k / HW % HW, column = k % HW;
    const int64_t position = g.distribute ? row : column, target = g.distribute ? column : row;
    // Mask-indexed: the mask around (h, w) reaches the target at (i, j).
    const int64_t i = target / W - position / W + g.mask_height / 2, j = target % W - position % W + g.mask_width / 2;
    const bool reached = 0 <= i && i < g.mask_height && 0 <= j && j < g.mask_width;
    out[k] = reached ? x[((n * g.mask_height + i) * g.mask_width + j) * HW + position] : T(0);
  }
}

template <typename T>
__global__ void Backward(const T* grad_out, T* grad_x, int64_t count, PsaMaskGeometry g) {
  const int64_t W = g.width, HW = g.height * W;
  for (int64_t k = FirstElement(); k < count; k += Stride()) {
    // Mask-indexed: grad_x [n, i, j, h, w].
    const int64_t position = k % HW, j = k / HW % g.mask_width, i = k / HW / g.mask_width % g.mask_height;
    const int64_t n = k / HW / g.mask_width / g.mask_height;
    // Feature-indexed: it lies over the target (h + i - half_h, w + j - half_w).
    const int64_t target_h = position / W + i - g.mask_height / 2, target_w = position % W + j - g.mask_width / 2;
    const bool inside = 0 <= target_h && target_h < g.height && 0 <= target_w && target_w < W;
    const int64_t target = target_h * W + target_w;
    const int64_t row = g.distribute ? position : target, column = g.distribute ? target : position;
    grad_x[k] = inside ? grad_out[(n * HW + row) * HW + column] : T(0);
  }
}

template <typename T>
int Launch(void (*kernel)(const T*, T*, int64_t, PsaMaskGeometry), const void* from, void* to, int64_t count,
           const PsaMaskGeometry& g, void* stream) {
  const int64_t blocks = std::min<int64_t>((count + kThreads - 1) / kThreads, 1 << 20);
  if (blocks > 0) kernel<<<blocks, kThreads, 0, (cudaStream_t)stream>>>((const T*)from, (T*)to, count, g);
  return cudaGetLastError();
}

}  // namespace

int psamask_forward_cuda(const void* x, void* out, int element_size, PsaMaskGeometry g, void* stream) {
  const int64_t HW = g.height * g.width, count = g.batch * HW * HW;
  if (element_size == 2) return Launch(Forward<uint16_t>, x, out, count, g, stream);
  if (element_size == 4) return Launch(Forward<uint32_t>, x, out, count, g, stream);
  if (element_size == 8) return Launch(Forward<uint64_t>, x, out, count, g, stream);
  return cudaErrorInvalidValue;
}

int psamask_backward_cuda(const void* grad_out, void* grad_x, int element_size, PsaMaskGeometry g, void* stream) {
  const int64_t count = g.batch * g.mask_height * g.mask_width * g.height * g.width;
  if (element_size == 2) return Launch(Backward<uint16_t>, grad_out, grad_x, count, g, stream);
  if (element_size == 4) return Launch(Backward<uint32_t>, grad_out, grad_x, count, g, stream);
  if (element_size == 8) return Launch(Backward<uint64_t>, grad_out, grad_x, count, g, stream);
  return cudaErrorInvalidValue;
}
