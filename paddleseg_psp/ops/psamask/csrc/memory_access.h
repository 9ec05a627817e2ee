// Memory that is far: not in the cache yet, or not even handed out by the system.
#pragma once

#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace psa {

// Asks for large pages where a large array is about to be written for the first time. Paddle takes each large tensor anew from
// the system, and the first touch of its small pages takes several times as long as filling them.
inline void AdviseHugePages(const void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kSmallPage = 4096;
  constexpr int64_t kWorthwhile = 1 << 22;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kSmallPage - 1) & ~(kSmallPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kSmallPage - 1);
  if (bytes >= kWorthwhile) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: it may fail
#else
  (void)data, (void)bytes;
#endif
}

// Runs of a map row are too short and too far apart for the processor to guess which comes next: ask for so many ahead.
constexpr int64_t kRunsAhead = 6;

template <typename T>
void Prefetch(const T* run, int64_t count) {
  for (int64_t k = 0; k < count; k += 64 / sizeof(T)) __builtin_prefetch(run + k);
}

}  // namespace psa
