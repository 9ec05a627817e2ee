/* What dev/benchmarks/psa.py compares with: psa_mask as one would write it down, and the processor's arithmetic alone. */
#include <string.h>

/* One thread, one element after the other. */

void scatter(const float *x, float *out, long height, long width, long mask_height, long mask_width, int distribute) {
  long positions = height * width;
  memset(out, 0, sizeof(float) * positions * positions);
  for (long h = 0; h < height; ++h)
    for (long w = 0; w < width; ++w)
      for (long i = 0; i < mask_height; ++i)
        for (long j = 0; j < mask_width; ++j) {
          long target_h = h + i - mask_height / 2, target_w = w + j - mask_width / 2;
          if (target_h < 0 || target_h >= height || target_w < 0 || target_w >= width) continue;
          long position = h * width + w, target = target_h * width + target_w;
          out[distribute ? position * positions + target : target * positions + position] =
              x[(i * mask_width + j) * positions + position];
        }
}

void gather(const float *grad_out, float *grad_x, long height, long width, long mask_height, long mask_width, int distribute) {
  long positions = height * width;
  memset(grad_x, 0, sizeof(float) * mask_height * mask_width * positions);
  for (long h = 0; h < height; ++h)
    for (long w = 0; w < width; ++w)
      for (long i = 0; i < mask_height; ++i)
        for (long j = 0; j < mask_width; ++j) {
          long target_h = h + i - mask_height / 2, target_w = w + j - mask_width / 2;
          if (target_h < 0 || target_h >= height || target_w < 0 || target_w >= width) continue;
          long position = h * width + w, target = target_h * width + target_w;
          grad_x[(i * mask_width + j) * positions + position] =
              grad_out[distribute ? position * positions + target : target * positions + position];
        }
}

typedef float vector __attribute__((vector_size(64)));

/* 24 * 16 independent products and sums, `repeats` times, in registers. */
float multiply_add(long repeats) {
  vector sums[24] = {{0}}, factor = {0}, result = {0};
  for (int k = 0; k < 16; ++k) factor[k] = 0.5f + 0.01f * k;
  for (int k = 0; k < 24; ++k) sums[k] += (float)k; /* different, or the compiler would work out one of them */
  for (long r = 0; r < repeats; ++r)
#pragma GCC unroll 24
    for (int k = 0; k < 24; ++k) sums[k] = sums[k] * factor + factor;
  for (int k = 0; k < 24; ++k) result += sums[k];
  return result[0];
}
