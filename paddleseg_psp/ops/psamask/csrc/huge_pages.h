// Memory that arrives from the system page by page.
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

}  // namespace psa
