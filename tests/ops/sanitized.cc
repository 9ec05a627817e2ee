// Runs the CPU kernels on maps and masks of many sizes, in memory of exactly the size they may touch, for a sanitizer to watch.
// Fails by itself where an output is not written.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "psa_attention.h"
#include "psamask.h"

namespace {

std::mt19937 generator(1);

template <typename T>
struct Array {
  explicit Array(int64_t size) : size(size), data(new T[size]) { std::memset(data, 0xff, size * sizeof(T)); }  // all NaN
  ~Array() { delete[] data; }
  Array& Random() {
    for (int64_t k = 0; k < size; ++k) {
      if (sizeof(T) == 2) {
        const uint16_t bits = 0x3000 + generator() % 0x800;  // of about 0.2 as float16
        std::memcpy(data + k, &bits, 2);
      } else {
        data[k] = T(generator() % 2001) / 1000 - 1;
      }
    }
    return *this;
  }
  void CheckWritten(const char* name) const {
    const std::vector<unsigned char> poison(sizeof(T), 0xff);
    for (int64_t k = 0; k < size; ++k)
      if (!std::memcmp(data + k, poison.data(), sizeof(T))) {
        std::fprintf(stderr, "element %lld of %s was not written\n", (long long)k, name);
        std::exit(1);
      }
  }
  int64_t size;
  T* data;
};

template <typename T, typename S>
void RunAll(PsaElement element, int64_t n, int64_t c, int64_t h, int64_t w, int64_t mask_h, int64_t mask_w) {
  const int64_t mask_channels = mask_h ? mask_h * mask_w : h * w;
  for (const bool distribute : {false, true}) {
    if (mask_h) {
      const PsaMaskGeometry geometry{n, h, w, mask_h, mask_w, distribute};
      Array<T> x(n * mask_channels * h * w), out(n * h * w * h * w), grad_x(x.size);
      psamask_forward_cpu(x.Random().data, out.data, sizeof(T), geometry);
      out.CheckWritten("psa_mask");
      psamask_backward_cpu(out.Random().data, grad_x.data, sizeof(T), geometry);
      grad_x.CheckWritten("psa_mask's gradient");
    }
    for (const bool softmax : {false, true}) {
      const PsaAttentionGeometry geometry{n, c, h, w, mask_h, mask_w, distribute, softmax};
      Array<T> value(n * c * h * w), mask(n * mask_channels * h * w), out(value.size), grad_out(value.size);
      Array<T> grad_value(value.size), grad_mask(mask.size);
      Array<S> statistics(n * 2 * h * w);
      psa_attention_forward_cpu(value.Random().data, mask.Random().data, out.data, statistics.data, element, geometry);
      out.CheckWritten("psa_attention");
      statistics.CheckWritten("its statistics");
      psa_attention_backward_cpu(value.data, mask.data, out.data, statistics.data, grad_out.Random().data, grad_value.data,
                                 grad_mask.data, element, geometry);
      grad_value.CheckWritten("the gradient of value");
      grad_mask.CheckWritten("the gradient of mask");
    }
  }
}

}  // namespace

int main() {
  const int64_t sizes[][6] = {{2, 3, 5, 7, 3, 5},   {1, 70, 6, 9, 11, 17}, {2, 5, 3, 4, 9, 11},  {1, 4, 1, 1, 1, 1},
                              {1, 4, 1, 40, 1, 5},  {1, 5, 9, 1, 3, 3},    {1, 3, 3, 97, 3, 7},  {1, 3, 1, 200, 1, 397},
                              {2, 9, 4, 13, 0, 0},  {1, 3, 2, 90, 0, 0},   {1, 64, 8, 16, 5, 7}, {1, 2, 4, 6, 99, 1},
                              {3, 1, 12, 12, 13, 9}};
  for (const auto& s : sizes) {
    RunAll<float, float>(PSA_FLOAT32, s[0], s[1], s[2], s[3], s[4], s[5]);
    RunAll<double, double>(PSA_FLOAT64, s[0], s[1], s[2], s[3], s[4], s[5]);
    RunAll<uint16_t, float>(PSA_FLOAT16, s[0], s[1], s[2], s[3], s[4], s[5]);
    RunAll<uint16_t, float>(PSA_BFLOAT16, s[0], s[1], s[2], s[3], s[4], s[5]);
  }
  std::puts("all written");
}
