// Quantisers: amax of a block, its scale, and the block divided by it, in one pass over memory.
#include "common/quantize.cuh"

using namespace quantize;

namespace {
constexpr int kThreads = 256;
constexpr int kChunks = 4;  // chunks of eight elements in flight in each thread
}  // namespace

// Blocks of 1 x kBlock along a row: kBlock / 8 neighbouring lanes share a block.
template <typename Input, typename Format, typename Rule, typename Scale, typename Payload, int kBlock, bool kVector>
__global__ void __launch_bounds__(kThreads) quantize_blocks(const __grid_constant__ Problem p) {
    constexpr int kLanes = kBlock / 8;
    static_assert(kLanes >= 1 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0, "a block is shared by lanes of a warp");
    const int blocks = (p.columns + kBlock - 1) / kBlock, chunks = blocks * kLanes;
    const float global = p.global ? *p.global : 1.0f;
    const unsigned first = blockIdx.x * (kThreads * kChunks) + threadIdx.x;  // the host keeps the count below 2^31
    int row = first / chunks, chunk = first % chunks;
    const int row_step = kThreads / chunks, chunk_step = kThreads % chunks;

    float x[kChunks][8];
    int rows[kChunks], columns[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
        rows[i] = row, columns[i] = chunk * 8;
        const bool inside = row < p.rows && columns[i] < p.columns;
        if (inside) {
            load<Input, kVector>(x[i], p, row, columns[i]);
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j) x[i][j] = 0.0f;
        }
        row += row_step, chunk += chunk_step;
        if (chunk >= chunks) chunk -= chunks, ++row;
    }
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
        float amax = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) amax = larger_magnitude(amax, x[i][j]);
        amax = reduce_magnitude<kLanes>(amax);
        typename Scale::Stored stored;
        const Payload divided = divide_by_scale_of<Format, Rule, Scale, Payload>(amax, p.floor, global, stored);
        if (rows[i] >= p.rows || columns[i] >= p.columns) continue;
#pragma unroll
        for (int j = 0; j < 8; ++j) x[i][j] = divided(x[i][j]);
        store<Format, kVector>(x[i], p, rows[i], columns[i]);
        if (columns[i] % kBlock == 0)
            static_cast<typename Scale::Stored*>(p.scales)[rows[i] * p.scale_row + columns[i] / kBlock * p.scale_column] =
                stored;
    }
}

// One scale a row: the row is read twice, the second time from the cache.
template <typename Input, typename Format, typename Rule, typename Scale, typename Payload, bool kVector>
__global__ void __launch_bounds__(kThreads) quantize_row(const __grid_constant__ Problem p) {
    __shared__ float partial[kThreads / 32];
    const int row = blockIdx.x;
    const float global = p.global ? *p.global : 1.0f;
    float amax = 0.0f, x[8];
#pragma unroll 4
    for (int column = threadIdx.x * 8; column < p.columns; column += kThreads * 8) {
        load<Input, kVector>(x, p, row, column);
#pragma unroll
        for (int j = 0; j < 8; ++j) amax = larger_magnitude(amax, x[j]);
    }
    amax = reduce_magnitude<32>(amax);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = amax;
    __syncthreads();
    amax = reduce_magnitude<8>(partial[threadIdx.x % 8]);
    typename Scale::Stored stored;
    const Payload divided = divide_by_scale_of<Format, Rule, Scale, Payload>(amax, p.floor, global, stored);
    if (threadIdx.x == 0) static_cast<typename Scale::Stored*>(p.scales)[row * p.scale_row] = stored;
#pragma unroll 4
    for (int column = threadIdx.x * 8; column < p.columns; column += kThreads * 8) {
        load<Input, kVector>(x, p, row, column);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] = divided(x[j]);
        store<Format, kVector>(x, p, row, column);
    }
}

// Tiles of 128 x 128, with one scale (kColumns = 128) or one for each column (kColumns = 1). A thread holds eight columns
// of every sixteenth row.
template <typename Input, typename Format, typename Rule, typename Scale, typename Payload, int kColumns, bool kVector>
__global__ void __launch_bounds__(kThreads) quantize_tiles(const __grid_constant__ Problem p) {
    static_assert(kColumns == 1 || kColumns == 128, "a scale belongs to a column of the tile or to all of it");
    __shared__ float partial[16][132];
    __shared__ float largest[128];
    const float global = p.global ? *p.global : 1.0f;
    const int lane = threadIdx.x % 16, band = threadIdx.x / 16;
    const int column = blockIdx.x * 128 + lane * 8, row = blockIdx.y * 128 + band;
    float x[8][8], amax[8] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const bool inside = row + 16 * i < p.rows && column < p.columns;
#pragma unroll
        for (int j = 0; j < 8; ++j) x[i][j] = 0.0f;
        if (inside) load<Input, kVector>(x[i], p, row + 16 * i, column);
#pragma unroll
        for (int j = 0; j < 8; ++j) amax[j] = larger_magnitude(amax[j], x[i][j]);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) partial[band][lane * 8 + j] = amax[j];
    __syncthreads();
    if (threadIdx.x < 128) {
        float column_amax = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; ++i) column_amax = larger_magnitude(column_amax, partial[i][threadIdx.x]);
        largest[threadIdx.x] = kColumns == 1 ? column_amax : reduce_magnitude<32>(column_amax);
    }
    __syncthreads();
    typename Scale::Stored stored, *scales = static_cast<typename Scale::Stored*>(p.scales);
    if constexpr (kColumns == 1) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const Payload divided =
                divide_by_scale_of<Format, Rule, Scale, Payload>(largest[lane * 8 + j], p.floor, global, stored);
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i][j] = divided(x[i][j]);
            if (band == 0 && column + j < p.columns)
                scales[blockIdx.y * p.scale_row + (column + j) * p.scale_column] = stored;
        }
    } else {
        float all = larger_magnitude(larger_magnitude(largest[0], largest[32]), larger_magnitude(largest[64], largest[96]));
        const Payload divided = divide_by_scale_of<Format, Rule, Scale, Payload>(all, p.floor, global, stored);
#pragma unroll
        for (int i = 0; i < 64; ++i) x[i / 8][i % 8] = divided(x[i / 8][i % 8]);
        if (threadIdx.x == 0) scales[blockIdx.y * p.scale_row + blockIdx.x * p.scale_column] = stored;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (row + 16 * i < p.rows && column < p.columns) store<Format, kVector>(x[i], p, row + 16 * i, column);
}
