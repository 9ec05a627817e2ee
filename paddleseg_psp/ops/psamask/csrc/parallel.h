// A loop over independent pieces of work, shared among the processor's threads.
#pragma once

#include <atomic>
#include <cstdint>

#ifndef _OPENMP
#include <algorithm>
#include <thread>
#include <vector>
#endif

namespace psa {

// Calls body(k) for 0 <= k < count, in any order. Pieces may differ in size: each thread takes the next when it is free.
//
// With OpenMP no more than `parallel` is asked for: Paddle's libiomp5 lacks what compilers of today make of `for schedule
// (dynamic)`, and it would come from whichever other OpenMP the process has loaded.
template <class Body>
void ParallelFor(int64_t count, Body body) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t k; (k = next++) < count;) body(k);
  };
#ifdef _OPENMP
#pragma omp parallel
  work();
#else
  const int64_t most = std::thread::hardware_concurrency();
  std::vector<std::thread> others(std::max<int64_t>(0, std::min(most, count) - 1));
  for (auto& thread : others) thread = std::thread(work);
  work();
  for (auto& thread : others) thread.join();
#endif
}

}  // namespace psa
