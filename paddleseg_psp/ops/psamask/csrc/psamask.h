// C interface of the psamask kernels (Zhao et al., PSANet, ECCV 2018, section 3).
//
// The operator only moves elements, so the kernels ask for their size (2, 4 or 8 bytes) and not for their type: all bits
// zero is 0.0 in float16, bfloat16, float32 and float64.
#pragma once

#include <cstdint>

extern "C" {

struct PsaMaskGeometry {
  int64_t batch, height, width;     // of the feature map
  int64_t mask_height, mask_width;  // both odd
  bool distribute;                  // otherwise collect
};

// x [batch, mask_height * mask_width, height, width] -> out [batch, height * width, height, width]
void psamask_forward_cpu(const void* x, void* out, int element_size, PsaMaskGeometry geometry);
// grad_out like out -> grad_x like x
void psamask_backward_cpu(const void* grad_out, void* grad_x, int element_size, PsaMaskGeometry geometry);

// The same on device pointers, in the cudaStream_t `stream`; they return cudaGetLastError().
int psamask_forward_cuda(const void* x, void* out, int element_size, PsaMaskGeometry geometry, void* stream);
int psamask_backward_cuda(const void* grad_out, void* grad_x, int element_size, PsaMaskGeometry geometry, void* stream);
}
