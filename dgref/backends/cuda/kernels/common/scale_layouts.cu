// Scale layouts: grids of scales from row-major order to where kernels read them, and back.
//
// Codes travel as words of four scales of one row. A block moves a tile of 128 rows x 32 words through shared memory:
// rows come in side by side, and leave in the order of the target. Names are those of dgref.formats.layouts.
#include "common/numbers.cuh"

namespace layouts {

constexpr int kThreads = 256, kRows = 128, kWords = 32, kInFlight = 4;

struct Problem {
    const void* source;   // [batch, source rows, columns]
    void* target;
    const int* ends;      // where the groups end (psum) or how long they are (k-grouped); or null
    int* offender;        // set where a float is no positive power of two; or null
    int rows, columns;    // of the target's grid; `rows` counts each broadcast row
    int padded_rows;      // of the target
    int row_shift;        // log2 of the target rows that share a source row
    int groups, row_alignment, total_words;
};

// Reading a word: four UE8M0 codes of one row, zeros past its end.
struct Exponents {
    using Element = unsigned;  // the bits of a float
    static __device__ __forceinline__ unsigned code(unsigned bits) { return bits >> 23; }
    static __device__ __forceinline__ bool offends(unsigned bits) {
        const bool power = (bits & 0x7fffffu) == 0 && bits - 1 < 0x7f800000u - 1;
        return !power && bits != 0x00400000u;  // 2^-127 is a subnormal
    }
};

struct Codes {
    using Element = unsigned char;
    static __device__ __forceinline__ unsigned code(unsigned bits) { return bits; }
    static __device__ __forceinline__ bool offends(unsigned) { return false; }
};

template <typename Source, bool kVector>
__device__ __forceinline__ unsigned read_word(const typename Source::Element* row, int word, int columns, bool& offends) {
    typename Source::Element element[4];
    if constexpr (kVector) {
        using Four = uint4;
        if constexpr (sizeof(element) == 16)
            *reinterpret_cast<Four*>(element) = __ldg(reinterpret_cast<const Four*>(row) + word);
        else
            *reinterpret_cast<unsigned*>(element) = __ldg(reinterpret_cast<const unsigned*>(row) + word);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) element[i] = word * 4 + i < columns ? row[word * 4 + i] : 0;
    }
    unsigned result = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        offends |= word * 4 + i < columns && Source::offends(element[i]);
        result |= Source::code(element[i]) << 8 * i;
    }
    return result;
}

struct Tile {
    unsigned word[kRows][kWords + 1];  // the odd width keeps columns free of bank conflicts
    bool stored[kRows];
};

// psum: row r of group g is stored when align(ends[g - 1]) <= r < ends[g].
__device__ __forceinline__ bool is_stored(const Problem& p, int row) {
    if (row >= p.rows) return false;
    if (p.ends == nullptr) return true;
    int low = 0, high = p.groups;  // the first group that ends after the row
    while (low < high) {
        const int middle = (low + high) / 2;
        if (p.ends[middle] > row) high = middle; else low = middle + 1;
    }
    if (low == p.groups) return false;
    const int before = low ? p.ends[low - 1] : 0;
    return (before + p.row_alignment - 1) / p.row_alignment * p.row_alignment <= row;
}

// Fills the tile whose first row and word are given; words of rows that are not stored are zero.
template <typename Source, bool kVector>
__device__ __forceinline__ void load_tile(Tile& tile, const Problem& p, int first_row, int first_word, int width) {
    using Element = typename Source::Element;
    const int source_rows = (p.rows + (1 << p.row_shift) - 1) >> p.row_shift;
    const Element* source = static_cast<const Element*>(p.source) + blockIdx.z * (size_t)source_rows * p.columns;
    const int first_source = first_row >> p.row_shift, count = ::max(kRows >> p.row_shift, 1) * width;
    if (threadIdx.x < kRows) tile.stored[threadIdx.x] = is_stored(p, first_row + threadIdx.x);
    bool offends = false;
    __syncthreads();
    for (int start = threadIdx.x; start < count; start += kThreads * kInFlight) {
        unsigned words[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
            const int index = start + i * kThreads, row = index / width, word = first_word + index % width;
            words[i] = 0;
            if (index < count && first_source + row < source_rows && (p.row_shift || tile.stored[row]))
                words[i] = read_word<Source, kVector>(source + (size_t)(first_source + row) * p.columns, word, p.columns, offends);
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
            const int index = start + i * kThreads;
            if (index < count) tile.word[index / width][index % width] = words[i];
        }
    }
    if (offends && p.offender) *p.offender = 1;
    __syncthreads();
}

// Row m of every 128 goes to 4 (m % 32) + m / 32; this is the way back.
__device__ __forceinline__ int utccp_source(int position) { return position % 4 * 32 + position / 4; }

}  // namespace layouts

// packed_ue8m0: word p of row m at p * padded_rows + m. kUtccp: the rows of every 128 in the order of utccp_4x32.
template <typename Source, bool kUtccp, bool kVector>
__global__ void __launch_bounds__(layouts::kThreads) pack_words(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    __shared__ Tile tile;
    const int words = (p.columns + 3) / 4, first_word = blockIdx.x * kWords, first_row = blockIdx.y * kRows;
    const int width = ::min(kWords, words - first_word);
    load_tile<Source, kVector>(tile, p, first_row, first_word, width);
    const int position = threadIdx.x % kRows, row = kUtccp ? utccp_source(position) : position;
    if (first_row + position >= p.padded_rows) return;
    const bool stored = tile.stored[row];
    unsigned* target = static_cast<unsigned*>(p.target) + ((size_t)blockIdx.z * words + first_word) * p.padded_rows;
    for (int word = threadIdx.x / kRows; word < width; word += kThreads / kRows)
        target[(size_t)word * p.padded_rows + first_row + position] = stored ? tile.word[row >> p.row_shift][word] : 0;
}

// swizzle_128x4: 512 bytes for each 128 rows x 4 scales; row r of a tile at 16 (r % 32) + 4 (r / 32).
template <bool kVector>
__global__ void __launch_bounds__(layouts::kThreads) swizzle_128x4(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    __shared__ Tile tile;
    const int words = (p.columns + 3) / 4, first_word = blockIdx.x * kWords;
    const int width = ::min(kWords, words - first_word);
    load_tile<Codes, kVector>(tile, p, blockIdx.y * kRows, first_word, width);
    uint4* target = static_cast<uint4*>(p.target) + ((blockIdx.z * (size_t)gridDim.y + blockIdx.y) * words + first_word) * 32;
    const int r = threadIdx.x % 32;
    for (int word = threadIdx.x / 32; word < width; word += kThreads / 32)
        target[word * 32 + r] = make_uint4(tile.word[r][word], tile.word[r + 32][word], tile.word[r + 64][word],
                                           tile.word[r + 96][word]);
}

template <bool kVector>
__global__ void __launch_bounds__(layouts::kThreads) unswizzle_128x4(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    __shared__ Tile tile;
    const int words = (p.columns + 3) / 4, first_word = blockIdx.x * kWords, first_row = blockIdx.y * kRows;
    const int width = ::min(kWords, words - first_word);
    const uint4* source =
        static_cast<const uint4*>(p.source) + ((blockIdx.z * (size_t)gridDim.y + blockIdx.y) * words + first_word) * 32;
    for (int index = threadIdx.x; index < width * 32; index += kThreads) {
        const uint4 four = __ldg(source + index);
        const int r = index % 32, word = index / 32;
        tile.word[r][word] = four.x, tile.word[r + 32][word] = four.y;
        tile.word[r + 64][word] = four.z, tile.word[r + 96][word] = four.w;
    }
    __syncthreads();
    unsigned char* target = static_cast<unsigned char*>(p.target) + ((size_t)blockIdx.z * p.rows + first_row) * p.columns;
    for (int index = threadIdx.x; index < ::min(kRows, p.rows - first_row) * width; index += kThreads) {
        const int row = index / width, word = index % width, column = (first_word + word) * 4;
        unsigned char* place = target + (size_t)row * p.columns + column;
        if constexpr (kVector) {
            *reinterpret_cast<unsigned*>(place) = tile.word[row][word];
        } else {
            for (int i = 0; i < 4 && column + i < p.columns; ++i) place[i] = tile.word[row][word] >> 8 * i;
        }
    }
}

// packed_ue8m0_k_grouped: the grid is [scales along K, MN]; four rows of a group make one row of words, and every group
// starts a new one. A block walks down a range of word rows, so that it looks up its group once.
template <typename Source>
__global__ void __launch_bounds__(layouts::kThreads) pack_rows(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    using Element = typename Source::Element;
    const int column = blockIdx.x * kThreads + threadIdx.x;
    const int per_block = (p.total_words + gridDim.y - 1) / gridDim.y, first = blockIdx.y * per_block;
    int group = 0, row = 0, word = 0, extent = p.ends[0];  // `row` and `word` are where the group starts
    bool offends = false;
    for (int out = first; out < ::min(first + per_block, p.total_words); ++out) {
        while (out >= word + (extent + 3) / 4) row += extent, word += (extent + 3) / 4, extent = p.ends[++group];
        if (column >= p.columns) continue;
        const int inside = (out - word) * 4;
        const Element* source = static_cast<const Element*>(p.source) + (size_t)(row + inside) * p.columns + column;
        unsigned result = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (inside + i >= extent) continue;
            const unsigned bits = source[(size_t)i * p.columns];
            offends |= Source::offends(bits);
            result |= Source::code(bits) << 8 * i;
        }
        static_cast<unsigned*>(p.target)[(size_t)out * p.columns + column] = result;
    }
    if (offends && p.offender) *p.offender = 1;
}

// mn_major_tma: float32 [rows, columns] to [columns, rows padded to 4], zeros in the padding.
template <int kSide>
__global__ void __launch_bounds__(layouts::kThreads) transpose_floats(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    constexpr int kEach = kSide * kSide / kThreads;
    __shared__ unsigned tile[kSide][kSide + 1];
    const int first_row = blockIdx.y * kSide, first_column = blockIdx.x * kSide;
    const int width = ::min(kSide, p.columns - first_column), height = ::min(kSide, p.rows - first_row);
    const unsigned* source =
        static_cast<const unsigned*>(p.source) + ((size_t)blockIdx.z * p.rows + first_row) * p.columns + first_column;
    int row = threadIdx.x / width, column = threadIdx.x % width;
    const int row_step = kThreads / width, column_step = kThreads % width;
    unsigned value[kEach];
    int place[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        place[i] = row < height ? column * (kSide + 1) + row : -1;
        value[i] = row < height ? __ldg(source + (size_t)row * p.columns + column) : 0;
        row += row_step, column += column_step;
        if (column >= width) column -= width, ++row;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i)
        if (place[i] >= 0) (&tile[0][0])[place[i]] = value[i];
    __syncthreads();
    unsigned* target = static_cast<unsigned*>(p.target) + ((size_t)blockIdx.z * p.columns + first_column) * p.padded_rows;
    const int lane = threadIdx.x % kSide;
    if (first_row + lane >= p.padded_rows) return;
    for (int i = threadIdx.x / kSide; i < width; i += kThreads / kSide)
        target[(size_t)i * p.padded_rows + first_row + lane] = lane < height ? tile[i][lane] : 0;
}

// utccp_4x32 of rows of whole words: row m of every 128 goes to 4 (m % 32) + m / 32.
template <typename Word>
__global__ void __launch_bounds__(layouts::kThreads) utccp_rows(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    const size_t total = (size_t)p.padded_rows * p.columns, stride = (size_t)gridDim.x * kThreads;
    const Word* source = static_cast<const Word*>(p.source) + blockIdx.z * (size_t)p.rows * p.columns;
    Word* target = static_cast<Word*>(p.target) + blockIdx.z * total;
    for (size_t index = blockIdx.x * (size_t)kThreads + threadIdx.x; index < total; index += stride) {
        const int position = index / p.columns, column = index % p.columns;
        const int row = position / kRows * kRows + utccp_source(position % kRows);
        target[index] = row < p.rows ? source[(size_t)row * p.columns + column] : Word{};
    }
}

// utccp_4x32 of words that lie along the rows' axis already: [any, rows]; words r, r + 32, r + 64 and r + 96 of every 128
// become sixteen neighbouring bytes.
template <typename Vector>
__global__ void __launch_bounds__(layouts::kThreads) utccp_words(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    const size_t total = (size_t)p.columns * p.rows / 4;
    for (size_t index = blockIdx.x * (size_t)kThreads + threadIdx.x; index < total; index += (size_t)gridDim.x * kThreads) {
        const unsigned* source = static_cast<const unsigned*>(p.source) + index / 32 * kRows + index % 32;
        static_cast<Vector*>(p.target)[index] =
            Vector{__ldg(source), __ldg(source + 32), __ldg(source + 64), __ldg(source + 96)};
    }
}
