// Rewrites an MN-major 8-bit matrix K-major, because wgmma reads 8-bit operands K-major only.
#include "sm90/ptx.cuh"

namespace dgref {

// from[group][k][row], rows contiguous, to to[group][row][k]; K is padded with zeros up to the stride of `to`.
// A block moves 64 x 64 bytes through shared memory, four bytes at a time on both sides.
template <int SIDE>
__global__ void __launch_bounds__(256) transpose(const u8* from, u8* to, int rows, int k, i64 from_stride, i64 to_stride) {
  static_assert(SIDE == 64, "256 threads move 16 words of 64 lines in four passes");
  __shared__ u32 tile[SIDE][SIDE / 4 + 1];
  const int first_row = int(blockIdx.x) * SIDE, first_k = int(blockIdx.y) * SIDE;
  const int word = int(threadIdx.x) % 16, line = int(threadIdx.x) / 16;
  from += i64(blockIdx.z) * k * from_stride;
  to += i64(blockIdx.z) * rows * to_stride;
  for (int pass = 0; pass < SIDE; pass += 16) {
    const int source_k = first_k + pass + line, row = first_row + word * 4;
    u32 value = 0;  // a line of `from` is padded to its stride, so a word that begins inside may be read whole
    if (source_k < k && row < rows) value = *reinterpret_cast<const u32*>(from + source_k * from_stride + row);
    tile[pass + line][word] = value;
  }
  __syncthreads();
  const u8* const bytes = reinterpret_cast<const u8*>(tile);
  for (int pass = 0; pass < SIDE; pass += 16) {
    const int row = pass + line, target_k = first_k + word * 4;
    if (first_row + row >= rows || target_k >= to_stride) continue;
    u32 value = 0;
    for (int i = 0; i < 4; ++i) value |= u32(bytes[(word * 4 + i) * (SIDE + 4) + row]) << (8 * i);
    *reinterpret_cast<u32*>(to + i64(first_row + row) * to_stride + target_k) = value;
  }
}

}  // namespace dgref
