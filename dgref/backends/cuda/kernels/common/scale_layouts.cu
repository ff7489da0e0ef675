// Scale layouts: grids of scales from row-major order to where kernels read them, and back.
//
// Codes travel as words of four scales of one row. A block moves a tile of 128 rows x 32 words through shared memory:
// rows come in side by side, and leave in the order of the target. Names are those of dgref.formats.layouts.
#include "common/numbers.cuh"

namespace layouts {

constexpr int kThreads = 256, kRows = 128, kWords = 32, kInFlight = 8, kGroups = 1024;

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

static_assert(sizeof(Problem) == 64, "the host packs these fields");

// Reading a word: four UE8M0 codes of one row, zeros past its end.
struct Exponents {
    using Element = unsigned;  // the bits of a float
    using Four = uint4;
    static constexpr unsigned kPast = 0x00400000;  // past the end of a row: 2^-127, whose code is 0
    static __device__ __forceinline__ unsigned code(unsigned bits) { return bits >> 23; }
    static __device__ __forceinline__ unsigned word(uint4 x) {
        return code(x.x) | code(x.y) << 8 | code(x.z) << 16 | code(x.w) << 24;
    }
    static __device__ __forceinline__ bool offends(unsigned bits) {
        const bool power = (bits & 0x7fffffu) == 0 && bits - 1 < 0x7f800000u - 1;
        return !power && bits != 0x00400000u;  // 2^-127 is a subnormal
    }
    static __device__ __forceinline__ bool any_offends(uint4 x) {
        return offends(x.x) || offends(x.y) || offends(x.z) || offends(x.w);
    }
};

struct Codes {
    using Element = unsigned char;
    using Four = unsigned;
    static constexpr unsigned char kPast = 0;
    static __device__ __forceinline__ unsigned code(unsigned bits) { return bits; }
    static __device__ __forceinline__ unsigned word(unsigned x) { return x; }
    static __device__ __forceinline__ bool offends(unsigned) { return false; }
    static __device__ __forceinline__ bool any_offends(unsigned) { return false; }
};

template <typename Source, bool kVector>
__device__ __forceinline__ typename Source::Four read_four(const typename Source::Element* row, int word, int columns) {
    typename Source::Four four;
    if constexpr (kVector) return __ldg(reinterpret_cast<const typename Source::Four*>(row) + word);
    auto* element = reinterpret_cast<typename Source::Element*>(&four);
#pragma unroll
    for (int i = 0; i < 4; ++i) element[i] = word * 4 + i < columns ? row[word * 4 + i] : Source::kPast;
    return four;
}

struct Tile {
    unsigned word[kRows][kWords + 1];  // the odd width keeps columns free of bank conflicts
    int ends[kGroups];
    bool stored[kRows];
};

// Which words of a row a block has: shares of about equal width, kWords at most, in whole sectors of 32 code bytes.
struct Share {
    int words, first, width;
    __device__ __forceinline__ explicit Share(const Problem& p) : words((p.columns + 3) / 4) {
        const int each = ((words + gridDim.x - 1) / gridDim.x + 7) / 8 * 8;
        first = blockIdx.x * each, width = ::max(::min(each, words - first), 0);
    }
};

// Walks over the words of a tile row by row, kThreads words a step, without a division a step.
struct Walk {
    int row, word, width, row_step, word_step;
    __device__ __forceinline__ explicit Walk(int width)
        : row(threadIdx.x / width), word(threadIdx.x % width), width(width), row_step(kThreads / width),
          word_step(kThreads % width) {}
    __device__ __forceinline__ void next() {
        row += row_step, word += word_step;
        if (word >= width) word -= width, ++row;
    }
};

// psum: row r of group g is stored when align(ends[g - 1]) <= r < ends[g].
__device__ __forceinline__ bool is_stored(const Problem& p, const int* ends, int row) {
    if (row >= p.rows) return false;
    if (p.ends == nullptr) return true;
    int low = 0, high = p.groups;  // the first group that ends after the row
    while (low < high) {
        const int middle = (low + high) / 2;
        if (ends[middle] > row) high = middle; else low = middle + 1;
    }
    if (low == p.groups) return false;
    const int before = low ? ends[low - 1] : 0;
    return (before + p.row_alignment - 1) / p.row_alignment * p.row_alignment <= row;
}

__device__ __forceinline__ void find_stored(Tile& tile, const Problem& p, int first_row) {
    __syncthreads();
    const int* ends = p.groups <= kGroups ? tile.ends : p.ends;
    if (threadIdx.x < kRows) tile.stored[threadIdx.x] = is_stored(p, ends, first_row + threadIdx.x);
    __syncthreads();
}

// Fills the tile, whole source rows at a time; which of them are stored is known afterwards (before, if floats are
// checked: padding may hold anything).
template <typename Source, bool kVector>
__device__ __forceinline__ void load_tile(Tile& tile, const Problem& p, int first_row, const Share& share) {
    using Element = typename Source::Element;
    const int source_rows = (p.rows + (1 << p.row_shift) - 1) >> p.row_shift, first_source = first_row >> p.row_shift;
    const int height = ::min(::max(kRows >> p.row_shift, 1), source_rows - first_source);
    const Element* source =
        static_cast<const Element*>(p.source) + (blockIdx.z * (size_t)source_rows + first_source) * p.columns;
    if (p.ends && p.groups <= kGroups)
        for (int group = threadIdx.x; group < p.groups; group += kThreads) tile.ends[group] = p.ends[group];
    const bool check = p.offender != nullptr;
    bool offends = false;
    if (check) find_stored(tile, p, first_row);
    Walk read(share.width), write(share.width);
    while (read.row < height) {
        typename Source::Four four[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i, read.next())  // past the end the last row again: no branch, all loads at once
            four[i] = read_four<Source, kVector>(source + (size_t)::min(read.row, height - 1) * p.columns,
                                                 share.first + read.word, p.columns);
#pragma unroll
        for (int i = 0; i < kInFlight; ++i, write.next()) {
            if (write.row >= height) continue;
            tile.word[write.row][write.word] = Source::word(four[i]);
            if (check && Source::any_offends(four[i])) offends |= p.row_shift || tile.stored[write.row];
        }
    }
    if (offends) *p.offender = 1;
    if (check)
        __syncthreads();
    else
        find_stored(tile, p, first_row);
}

// Row m of every 128 goes to 4 (m % 32) + m / 32; this is the way back.
__device__ __forceinline__ int utccp_source(int position) { return position % 4 * 32 + position / 4; }

// Where a row of words comes from, in k-grouped grids: its group's first row and first row of words, and its extent.
// A warp looks through 32 groups at a time.
struct Group {
    int row = 0, word = 0, extent = 0;
    __device__ __forceinline__ Group(const Problem& p, int wanted) {
        const int lane = threadIdx.x % 32;
        for (int base = 0; base < p.groups; base += 32) {
            const int mine = base + lane < p.groups ? p.ends[base + lane] : 0;
            int rows = mine, words = (mine + 3) / 4;
            for (int step = 1; step < 32; step *= 2) {
                const int more_rows = __shfl_up_sync(~0u, rows, step), more_words = __shfl_up_sync(~0u, words, step);
                if (lane >= step) rows += more_rows, words += more_words;
            }
            const unsigned beyond = __ballot_sync(~0u, word + words > wanted);
            const int found = beyond ? __ffs(beyond) - 1 : 31;
            const int last_row = row + __shfl_sync(~0u, rows, found), last_word = word + __shfl_sync(~0u, words, found);
            extent = __shfl_sync(~0u, mine, found);
            row = last_row, word = last_word;
            if (beyond) break;
        }
        row -= extent, word -= (extent + 3) / 4;
    }
};

}  // namespace layouts

// packed_ue8m0: word p of row m at p * padded_rows + m. kUtccp: the rows of every 128 in the order of utccp_4x32.
template <typename Source, bool kUtccp, bool kVector>
__global__ void __launch_bounds__(layouts::kThreads) pack_words(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    __shared__ Tile tile;
    const Share share(p);
    const int first_row = blockIdx.y * kRows, position = threadIdx.x % kRows;
    load_tile<Source, kVector>(tile, p, first_row, share);
    if (first_row + position >= p.padded_rows) return;
    const int row = kUtccp ? utccp_source(position) : position;
    const bool stored = tile.stored[row];
    unsigned* target =
        static_cast<unsigned*>(p.target) + ((size_t)blockIdx.z * share.words + share.first) * p.padded_rows + first_row;
    for (int word = threadIdx.x / kRows; word < share.width; word += kThreads / kRows)
        target[(size_t)word * p.padded_rows + position] = stored ? tile.word[row >> p.row_shift][word] : 0;
}

// swizzle_128x4: 512 bytes for each 128 rows x 4 scales; row r of a tile at 16 (r % 32) + 4 (r / 32).
template <bool kVector>
__global__ void __launch_bounds__(layouts::kThreads) swizzle_128x4(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    __shared__ Tile tile;
    const Share share(p);
    load_tile<Codes, kVector>(tile, p, blockIdx.y * kRows, share);
    const size_t tiles = blockIdx.z * (size_t)gridDim.y + blockIdx.y;
    uint4* target = static_cast<uint4*>(p.target) + (tiles * share.words + share.first) * 32;
    const int r = threadIdx.x % 32;
    const auto at = [&](int row, int word) { return tile.stored[row] ? tile.word[row][word] : 0u; };
    for (int word = threadIdx.x / 32; word < share.width; word += kThreads / 32)
        target[word * 32 + r] = make_uint4(at(r, word), at(r + 32, word), at(r + 64, word), at(r + 96, word));
}

template <bool kVector>
__global__ void __launch_bounds__(layouts::kThreads) unswizzle_128x4(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    __shared__ Tile tile;
    const Share share(p);
    const int first_row = blockIdx.y * kRows, height = ::min(kRows, p.rows - first_row);
    const size_t tiles = blockIdx.z * (size_t)gridDim.y + blockIdx.y;
    const uint4* source = static_cast<const uint4*>(p.source) + (tiles * share.words + share.first) * 32;
#pragma unroll 4
    for (int index = threadIdx.x; index < share.width * 32; index += kThreads) {
        const uint4 four = __ldg(source + index);
        const int r = index % 32, word = index / 32;
        tile.word[r][word] = four.x, tile.word[r + 32][word] = four.y;
        tile.word[r + 64][word] = four.z, tile.word[r + 96][word] = four.w;
    }
    __syncthreads();
    unsigned char* target = static_cast<unsigned char*>(p.target) + ((size_t)blockIdx.z * p.rows + first_row) * p.columns;
    for (Walk at(share.width); at.row < height; at.next()) {
        const int column = (share.first + at.word) * 4;
        unsigned char* place = target + (size_t)at.row * p.columns + column;
        const unsigned codes = tile.word[at.row][at.word];
        if constexpr (kVector) {
            *reinterpret_cast<unsigned*>(place) = codes;
        } else {
            for (int i = 0; i < 4 && column + i < p.columns; ++i) place[i] = codes >> 8 * i;
        }
    }
}

// packed_ue8m0_k_grouped: the grid is [scales along K, MN]; four rows of a group make one row of words, and every group
// starts a new one. A thread has kWide columns and walks down a range of word rows.
template <typename Source, int kWide>
__global__ void __launch_bounds__(layouts::kThreads) pack_rows(const __grid_constant__ layouts::Problem p) {
    using namespace layouts;
    using Element = typename Source::Element;
    struct alignas(sizeof(Element) * kWide) Read {
        Element element[kWide];
    };
    struct alignas(4 * kWide) Written {
        unsigned word[kWide];
    };
    const int column = ::min(static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * kWide, p.columns - kWide);
    const int per_block = (p.total_words + gridDim.y - 1) / gridDim.y, first = blockIdx.y * per_block;
    const int end = ::min(first + per_block, p.total_words);
    bool offends = false;
    for (int start = first; start < end;) {
        const Group group(p, start);
        const int stop = ::min(end, group.word + (group.extent + 3) / 4);
        for (int out = start; out < stop; ++out) {
            const int inside = (out - group.word) * 4, rows = group.extent - inside;
            const Element* source = static_cast<const Element*>(p.source) + (size_t)(group.row + inside) * p.columns + column;
            Read row[4];
            Written result = {};
#pragma unroll
            for (int i = 0; i < 4; ++i)  // past the group's end its last row again: all loads at once
                row[i] = *reinterpret_cast<const Read*>(source + (size_t)::min(i, rows - 1) * p.columns);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < kWide; ++j) {
                    if (i >= rows) continue;
                    offends |= Source::offends(row[i].element[j]);
                    result.word[j] |= Source::code(row[i].element[j]) << 8 * i;
                }
            }
            *reinterpret_cast<Written*>(static_cast<unsigned*>(p.target) + (size_t)out * p.columns + column) = result;
        }
        start = stop;
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
