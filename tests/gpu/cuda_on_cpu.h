// As much of CUDA as the kernels use, on the CPU: a block's threads are real ones, blocks come one after another. A thread
// sanitizer sees races in shared memory here.
#pragma once

#include <pthread.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "element.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static

struct dim3 {
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned x, y, z;
};
static thread_local dim3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static pthread_barrier_t barrier;
static void __syncthreads() { pthread_barrier_wait(&barrier); }

template <class... Parameters, class... Arguments>
void launch(dim3 blocks, dim3 threads, void (*kernel)(Parameters...), Arguments... arguments) {
  blockDim = threads, gridDim = blocks;
  const unsigned count = threads.x * threads.y * threads.z;
  pthread_barrier_init(&barrier, nullptr, count);
  std::vector<std::thread> running;
  for (unsigned k = 0; k < count; ++k)
    running.emplace_back([=] {
      threadIdx = dim3(k % threads.x, k / threads.x % threads.y, k / threads.x / threads.y);
      for (unsigned block = 0; block < blocks.x * blocks.y * blocks.z; ++block) {
        blockIdx = dim3(block % blocks.x, block / blocks.x % blocks.y, block / blocks.x / blocks.y);
        kernel(arguments...);
        pthread_barrier_wait(&barrier);  // shared memory is the next block's now
      }
    });
  for (auto& thread : running) thread.join();
  pthread_barrier_destroy(&barrier);
}

typedef void* cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
static int cudaGetLastError() { return cudaSuccess; }
static void cudaMemsetAsync(void* memory, int value, size_t size, cudaStream_t) { std::memset(memory, value, size); }

template <class Element>
struct LowPrecision : Element {
  LowPrecision() = default;
  explicit LowPrecision(float x) { psa::Store(x, static_cast<Element*>(this)); }
  operator float() const { return psa::Load(static_cast<Element>(*this)); }
};
using __half = LowPrecision<psa::Half>;
using __nv_bfloat16 = LowPrecision<psa::BFloat16>;
