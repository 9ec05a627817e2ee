// C interface of the fused point-wise attention kernels (Zhao et al., PSANet, ECCV 2018, section 3).
//
// With attention [H*W, H*W] what psamask.h makes of the mask, the result is out[:, q] = sum over s of value[:, s] * w(s, q),
// where w(:, q) is attention[:, q], with `softmax` its softmax. attention is never stored: its element (s, q) is
//   collect:     mask[channel(s - q), q]
//   distribute:  mask[channel(q - s), s]
// where channel(d) = (d_h + mask_height / 2) * mask_width + d_w + mask_width / 2, and 0 where the mask does not reach.
// A compact mask [batch, H*W, H, W] has one channel for each position and reaches all of them:
//   collect:     mask[s, q]
//   distribute:  mask[q, s]
#pragma once

#include <cstdint>

extern "C" {

enum PsaElement { PSA_FLOAT32, PSA_FLOAT64, PSA_FLOAT16, PSA_BFLOAT16 };

struct PsaAttentionGeometry {
  int64_t batch, channels, height, width;  // of value
  int64_t mask_height, mask_width;         // both odd, or both 0: a compact mask
  bool distribute;                         // otherwise collect
  bool softmax;
};

// value [batch, channels, height, width], mask [batch, mask_height * mask_width, height, width] -> out like value and
// statistics [batch, 2, height, width]: the maximum m of attention[:, q] and the sum over s of exp(attention[s, q] - m), of
// which backward makes the weights again (0 and 1 without softmax). statistics is float64 for float64, otherwise float32,
// in which sums are taken too.
void psa_attention_forward_cpu(const void* value, const void* mask, void* out, void* statistics, PsaElement element,
                               PsaAttentionGeometry geometry);
void psa_attention_backward_cpu(const void* value, const void* mask, const void* out, const void* statistics,
                                const void* grad_out, void* grad_value, void* grad_mask, PsaElement element,
                                PsaAttentionGeometry geometry);

// The same on device pointers, in the cudaStream_t `stream`, with so many bytes of device memory as workspace; they return
// cudaGetLastError().
int64_t psa_attention_workspace_cuda(PsaElement element, PsaAttentionGeometry geometry);
int psa_attention_forward_cuda(const void* value, const void* mask, void* out, void* statistics, void* workspace,
                               PsaElement element, PsaAttentionGeometry geometry, void* stream);
int psa_attention_backward_cuda(const void* value, const void* mask, const void* out, const void* statistics,
                                const void* grad_out, void* grad_value, void* grad_mask, void* workspace, PsaElement element,
                                PsaAttentionGeometry geometry, void* stream);
}
