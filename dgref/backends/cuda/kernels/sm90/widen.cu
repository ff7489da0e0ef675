// Widens packed weights once, into a workspace, for products of so many rows that widening them in each tile costs more.
#include "sm90/widen.cuh"

namespace dgref {

// A block widens RUNS * 256 runs of 16 codes of one row. Rows begin at multiples of 16 bytes on both sides.
template <int RUNS>
__global__ void __launch_bounds__(256) widen_rows(const u8* from, u8* to, int k, i64 from_stride, i64 to_stride) {
  const Widening widen;
  from += i64(blockIdx.x) * from_stride;
  to += i64(blockIdx.x) * to_stride;
  const int first = (int(blockIdx.y) * RUNS * 256 + int(threadIdx.x)) * 16;
  uint2 codes[RUNS];  // loaded together: one latency for all
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
    const int at = first + run * 256 * 16;
    if (at < k) codes[run] = __ldg(reinterpret_cast<const uint2*>(from + at / 2));
  }
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
    const int at = first + run * 256 * 16;
    const uint2 pair = codes[run];
    const uint4 bytes = {widen(pair.x), widen(pair.x >> 16), widen(pair.y), widen(pair.y >> 16)};
    if (at < k) *reinterpret_cast<uint4*>(to + at) = bytes;
  }
}

}  // namespace dgref
