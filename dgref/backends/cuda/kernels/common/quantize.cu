// Quantisers: amax of a block, its scale, and the block divided by it, in one pass over memory.
#include "common/quantize.cuh"

using namespace quantize;

namespace {

constexpr int kThreads = 256;

// Reduces kCount values over kLanes lanes while it deals them out: of d = min(kCount, kLanes) neighbouring values, lane l
// keeps the one at l % d. Five shuffles do for four values of sixteen lanes what separate reductions need sixteen for.
template <int kLanes, int kCount>
__device__ __forceinline__ void reduce_and_deal(float (&value)[kCount], int lane) {
    int count = kCount;
#pragma unroll
    for (int mask = 1; mask < kLanes; mask *= 2) {
        if (count > 1) {
            count /= 2;
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const float even = value[2 * i], odd = value[2 * i + 1];
                value[i] = larger(lane & mask ? odd : even, __shfl_xor_sync(~0u, lane & mask ? even : odd, mask));
            }
        } else {
            value[0] = larger(value[0], __shfl_xor_sync(~0u, value[0], mask));
        }
    }
}

template <int kCount>
__device__ __forceinline__ int pick(const int (&value)[kCount], int index) {
    int result = value[0];
#pragma unroll
    for (int i = 1; i < kCount; ++i) result = index == i ? value[i] : result;
    return result;
}

}  // namespace

// Blocks of 1 x kBlock along a row: a few neighbouring lanes share a block, and share out the work on its scales. FP4 goes
// by sixteen elements a lane, so that stores are as wide as FP8's. kFlat: all rows are one row, which spares the indices.
template <typename Input, typename Format, typename Rule, typename Scale, typename Payload, int kBlock, bool kVector,
          bool kFlat>
__global__ void __launch_bounds__(kThreads) quantize_blocks(const __grid_constant__ Problem p) {
    constexpr int kRuns = 8 / Format::kBits, kEach = 8 * kRuns, kInFlight = Format::kBits / 2;
    constexpr int kChunks = kInFlight / kRuns;  // FP4 computes more for a byte: with less in flight its blocks overlap more
    constexpr int kLanes = kBlock / kEach, kDealt = kLanes < kChunks ? kLanes : kChunks, kOwn = kChunks / kDealt;
    static_assert(kLanes >= 1 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0, "a block is shared by lanes of a warp");
    using Stored = typename Scale::Stored;
    const int chunks = (p.columns + kBlock - 1) / kBlock * kLanes;
    const float global = p.global ? *p.global : 1.0f;
    const unsigned first = blockIdx.x * (kThreads * kChunks) + threadIdx.x;  // the host keeps the count below 2^31
    const int row_step = kFlat ? 0 : kThreads / chunks, chunk_step = kFlat ? kThreads : kThreads % chunks;
    int row = kFlat ? 0 : first / chunks, chunk = kFlat ? first : first % chunks;

    Chunk<Input> x[kChunks][kRuns];
    int rows[kChunks], columns[kChunks];
    bool inside[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
        rows[i] = row, columns[i] = chunk * kEach;
        inside[i] = (kFlat || row < p.rows) && columns[i] < p.columns;
#pragma unroll
        for (int run = 0; run < kRuns; ++run)
            if (inside[i]) x[i][run].template load<kVector>(p, row, columns[i] + 8 * run);
        row += row_step, chunk += chunk_step;
        if (!kFlat && chunk >= chunks) chunk -= chunks, ++row;
    }
    float amax[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
        typename Input::Peaks peaks;
#pragma unroll
        for (int run = 0; run < kRuns; ++run) Input::raise(peaks, x[i][run].raw);
        amax[i] = Input::all(peaks);
    }
    const int lane = threadIdx.x % kLanes;
    reduce_and_deal<kLanes>(amax, lane);
    Factor factor[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        const int dealt = i * kDealt + lane % kDealt;
        const int at_row = kFlat ? 0 : pick(rows, dealt);
        const int at_column = kFlat ? columns[0] + dealt * (kThreads * kEach) : pick(columns, dealt);
        Stored stored;
        factor[i] = factor_of<Format, Rule, Scale, Payload>(amax[i], p.floor, global, stored);
        if (lane < kDealt && (kFlat ? at_column < p.columns : at_row < p.rows))
            static_cast<Stored*>(p.scales)[at_row * p.scale_row + at_column / kBlock * p.scale_column] = stored;
    }
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
        const int source = (threadIdx.x & 31 & ~(kLanes - 1)) + i % kDealt;
        Factor f = factor[i / kDealt];
        if (kLanes > 1) {
            f.divisor = __shfl_sync(~0u, f.divisor, source);
            f.reciprocal = __shfl_sync(~0u, f.reciprocal, source);
        }
        if (!inside[i]) continue;
        Codes<Format, kRuns> codes;
#pragma unroll
        for (int run = 0; run < kRuns; ++run) codes.run[run] = encoded<Format, Scale, Payload>(x[i][run], f);
        store<Format, kVector>(codes, p, rows[i], columns[i]);
    }
}

// One scale a row. Its first kKept chunks a thread stay in registers; of a longer row the rest is read twice.
template <typename Input, typename Format, typename Rule, typename Scale, typename Payload, int kRowThreads, bool kVector>
__global__ void __launch_bounds__(kRowThreads) quantize_row(const __grid_constant__ Problem p) {
    constexpr int kKept = 4, kStep = kRowThreads * 8, kWarps = kRowThreads / 32;
    __shared__ float partial[kWarps];
    const int row = blockIdx.x, begin = threadIdx.x * 8;
    const float global = p.global ? *p.global : 1.0f;
    Chunk<Input> x[kKept];
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < kKept; ++i)
        if (begin + i * kStep < p.columns) x[i].template load<kVector>(p, row, begin + i * kStep);
#pragma unroll
    for (int i = 0; i < kKept; ++i) amax = larger(amax, x[i].amax());
    for (int column = begin + kKept * kStep; column < p.columns; column += kStep) {
        Chunk<Input> more;
        more.template load<kVector>(p, row, column);
        amax = larger(amax, more.amax());
    }
    amax = reduce_larger<32>(amax);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = amax;
    __syncthreads();
    amax = reduce_larger<kWarps>(partial[threadIdx.x % kWarps]);
    typename Scale::Stored stored;
    const Factor factor = factor_of<Format, Rule, Scale, Payload>(amax, p.floor, global, stored);
    if (threadIdx.x == 0) static_cast<typename Scale::Stored*>(p.scales)[row * p.scale_row] = stored;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
        if (begin + i * kStep >= p.columns) break;
        const Codes<Format, 1> codes = {{encoded<Format, Scale, Payload>(x[i], factor)}};
        store<Format, kVector>(codes, p, row, begin + i * kStep);
    }
    for (int column = begin + kKept * kStep; column < p.columns; column += kStep) {
        Chunk<Input> more;
        more.template load<kVector>(p, row, column);
        const Codes<Format, 1> codes = {{encoded<Format, Scale, Payload>(more, factor)}};
        store<Format, kVector>(codes, p, row, column);
    }
}

// Tiles of 128 x 128, with one scale (kColumns = 128) or one for each column (kColumns = 1). A thread holds eight columns
// of every sixteenth row.
template <typename Input, typename Format, typename Rule, typename Scale, typename Payload, int kColumns, bool kVector>
__global__ void __launch_bounds__(kThreads) quantize_tiles(const __grid_constant__ Problem p) {
    static_assert(kColumns == 1 || kColumns == 128, "a scale belongs to a column of the tile or to all of it");
    using Stored = typename Scale::Stored;
    __shared__ float partial[16][132];
    __shared__ Factor factors[128];
    __shared__ float largest[4];
    const float global = p.global ? *p.global : 1.0f;
    const int lane = threadIdx.x % 16, band = threadIdx.x / 16;
    const int column = blockIdx.x * 128 + lane * 8, row = blockIdx.y * 128 + band;
    Stored stored, *scales = static_cast<Stored*>(p.scales) + blockIdx.y * p.scale_row;
    Chunk<Input> x[8];
    typename Input::Peaks peaks;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (row + 16 * i < p.rows && column < p.columns) x[i].template load<kVector>(p, row + 16 * i, column);
#pragma unroll
    for (int i = 0; i < 8; ++i) Input::raise(peaks, x[i].raw);
#pragma unroll
    for (int j = 0; j < 8; ++j) partial[band][lane * 8 + j] = Input::column(peaks, j);
    __syncthreads();
    if (threadIdx.x < 128) {
        float amax = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; ++i) amax = larger(amax, partial[i][threadIdx.x]);
        const int mine = blockIdx.x * 128 + threadIdx.x;
        if constexpr (kColumns == 1) {
            factors[threadIdx.x] = factor_of<Format, Rule, Scale, Payload>(amax, p.floor, global, stored);
            if (mine < p.columns) scales[mine * p.scale_column] = stored;
        } else {
            amax = reduce_larger<32>(amax);
            if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = amax;
        }
    }
    __syncthreads();
    Factor factor[8];
    if constexpr (kColumns == 1) {
#pragma unroll
        for (int j = 0; j < 8; ++j) factor[j] = factors[lane * 8 + j];
    } else {
        const float amax = larger(larger(largest[0], largest[1]), larger(largest[2], largest[3]));
        factor[0] = factor_of<Format, Rule, Scale, Payload>(amax, p.floor, global, stored);
        if (threadIdx.x == 0) scales[blockIdx.x * p.scale_column] = stored;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (row + 16 * i >= p.rows || column >= p.columns) continue;
        Codes<Format, 1> codes;
        if constexpr (kColumns == 1) {
            float values[8];
            x[i].widen(values);
#pragma unroll
            for (int j = 0; j < 8; ++j) values[j] = Payload::template apply<Input>(values[j], factor[j]);
            codes.run[0] = Format::encode(values);
        } else {
            codes.run[0] = encoded<Format, Scale, Payload>(x[i], factor[0]);
        }
        store<Format, kVector>(codes, p, row + 16 * i, column);
    }
}
