// Which tile comes next: one walk per schedule, taken by the copying warp, which tells the multiplying warpgroups.
#pragma once
#include "sm90/ptx.cuh"

namespace dgref {

// DENSE          one product, or `groups` products of equal shape, one behind the other.
// LABELLED       rows of A carry the index of their B in `layout`, one label per aligned block; -1 is padding.
// PREFIX_SUM     group g owns rows [align(end[g-1]), end[g]) of A; `layout` holds the ends.
// MASKED         A is [groups, m, k]; `layout[g]` rows of group g count, known on the GPU only.
// K_SIZES        D is [groups, m, n]; group g sums over the next layout[g] of K.
// K_PREFIX_SUM   as K_SIZES, over K in [align(end[g-1]), end[g]).
enum class Schedule { DENSE, LABELLED, PREFIX_SUM, MASKED, K_SIZES, K_PREFIX_SUM };

__host__ __device__ constexpr bool is_k_grouped(Schedule schedule) {
  return schedule == Schedule::K_SIZES || schedule == Schedule::K_PREFIX_SUM;
}

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

constexpr int SCALE_K = 128;  // elements of K that one scale of A covers

// What every block of a launch knows; sizes are per group where the schedule has groups.
struct Problem {
  int m, n, k;
  int groups;
  int splits;     // contiguous ranges of K, each computed by another block
  int band;       // tile rows that are walked together, so that their A stays in L2
  int alignment;  // of group starts in the prefix-sum schedules
  int zero_padding;  // write zeros to the rows between one group's end and the next one's start
  const int* layout;
};

// What the multiplying warpgroups are told.
struct Tile {
  int group;             // below zero: there is no tile any more
  int row, column;       // of the tile within D of its group
  int rows;              // rows of D that this tile writes
  int valid;             // how many of them hold a result; the others are zeros
  int k_size;            // elements of K of the group
  int block_begin, block_end;  // blocks of K of this split, counted within the group
  int split;
  int slot;              // index of the tile among all, for the reduction over splits
};

// What is copied for it besides.
struct PlacedTile : Tile {
  int a_row, b_row;      // tensor-map coordinates
  int scale_a_column;    // MN coordinate of the tile's scales
  int scale_a_row, scale_b_row;
  int k_origin;          // first element of K of the group
  bool b_shared;         // every block of the cluster multiplies by the same rows of B
  bool only_row;         // no other tile of D needs the same columns of B
};

template <Schedule SCHEDULE, int BLOCK_M, int BLOCK_N, int BLOCK_K, int CLUSTER_M, int CLUSTER_N, int CLUSTER_K>
class Scheduler {
 public:
  __device__ Scheduler(const Problem& problem, u32 rank)
      : problem_(problem),
        rank_m_(CLUSTER_M > 1 ? int(rank) : 0),
        rank_n_(CLUSTER_N > 1 ? int(rank) : 0),
        rank_k_(CLUSTER_K > 1 ? int(rank) : 0),
        index_(int(blockIdx.x) / CLUSTER),
        tiles_n_(ceil_div(ceil_div(problem.n, BLOCK_N), CLUSTER_N)),
        tiles_m_(tile_rows(problem.m)),
        size_(problem.k) {}

  __device__ bool next(PlacedTile& tile) {
    int unit = index_;
    tile.split = rank_k_;
    if (CLUSTER_K == 1 && problem_.splits > 1) unit = index_ / problem_.splits, tile.split = index_ - unit * problem_.splits;
    index_ += int(gridDim.x) / CLUSTER;
    if (!find_group(unit)) return false;
    place(tile, unit - before_);
    tile.slot = unit * CLUSTER + (CLUSTER_M > 1 ? rank_m_ : rank_n_);
    divide_k(tile);
    return true;
  }

 private:
  static constexpr int CLUSTER = CLUSTER_M * CLUSTER_N * CLUSTER_K;

  static __device__ int tile_rows(int rows) { return ceil_div(ceil_div(rows, BLOCK_M), CLUSTER_M); }

  // Moves to the group that holds this unit of work; units only grow, so the walk never turns back.
  __device__ bool find_group(int unit) {
    if constexpr (SCHEDULE == Schedule::LABELLED) return unit < tiles_m_ * tiles_n_;
    if (group_ < 0) enter_group(0);
    while (group_ < problem_.groups && unit >= before_ + tiles_m_ * tiles_n_) {
      before_ += tiles_m_ * tiles_n_;
      leave_group();
      enter_group(group_ + 1);
    }
    return group_ < problem_.groups;
  }

  __device__ void leave_group() {
    if constexpr (SCHEDULE == Schedule::PREFIX_SUM) origin_ = aligned(origin_ + size_);
    if constexpr (SCHEDULE == Schedule::K_SIZES) origin_ += size_;
    if constexpr (SCHEDULE == Schedule::K_PREFIX_SUM) origin_ = aligned(origin_ + size_);
    if constexpr (is_k_grouped(SCHEDULE)) scale_row_ += ceil_div(size_, SCALE_K);
  }

  __device__ void enter_group(int group) {
    group_ = group;
    band_end_ = 0;
    if (group >= problem_.groups || SCHEDULE == Schedule::DENSE) return;
    const int entry = __ldg(problem_.layout + group);
    if constexpr (SCHEDULE == Schedule::PREFIX_SUM || SCHEDULE == Schedule::K_PREFIX_SUM) {
      size_ = max(entry - origin_, 0);
    } else {
      size_ = max(entry, 0);
    }
    if constexpr (!is_k_grouped(SCHEDULE)) tiles_m_ = tile_rows(written_rows());
  }

  __device__ int written_rows() const {
    if (SCHEDULE != Schedule::PREFIX_SUM || !problem_.zero_padding) return size_;
    return min(aligned(origin_ + size_), problem_.m) - origin_;
  }

  __device__ int aligned(int value) const { return ceil_div(value, problem_.alignment) * problem_.alignment; }

  // Bands of tile rows; within a band, down the rows first. Units only grow: a band is entered once.
  __device__ void place(PlacedTile& tile, int unit) {
    if (unit >= band_end_) enter_band(unit);
    const int within = unit - band_begin_, column = band_height_ == 1 ? within : int(__umulhi(within, band_inverse_));
    const int row = band_ * problem_.band + within - column * band_height_;
    tile.row = (row * CLUSTER_M + rank_m_) * BLOCK_M;
    tile.column = (column * CLUSTER_N + rank_n_) * BLOCK_N;
    tile.only_row = tiles_m_ == 1;
    tile.k_origin = 0;
    tile.k_size = problem_.k;
    tile.b_shared = true;
    if constexpr (SCHEDULE == Schedule::LABELLED) {
      place_labelled(tile);
    } else {
      place_grouped(tile);
    }
  }

  __device__ void enter_band(int unit) {
    const int units = problem_.band * tiles_n_, band = unit < units ? 0 : unit / units;
    band_ = band;
    band_height_ = min(problem_.band, tiles_m_ - band * problem_.band);
    band_begin_ = band * problem_.band * tiles_n_;
    band_end_ = band_begin_ + band_height_ * tiles_n_;
    if (band_height_ > 1) band_inverse_ = 0xFFFFFFFFu / u32(band_height_) + 1;  // of a height of at most 32: exact below 2^27 units
  }

  // Blocks that share B agree on what they copy: one whose tile is padding alone copies what its peer needs.
  __device__ void place_labelled(PlacedTile& tile) const {
    tile.rows = min(BLOCK_M, problem_.m - tile.row);
    const int label = label_at(tile.row);
    tile.group = label;
    if constexpr (CLUSTER_M > 1) {
      const int peer = label_at(tile.row + (rank_m_ == 0 ? BLOCK_M : -BLOCK_M));
      tile.group = label < 0 ? peer : label;
      tile.b_shared = peer < 0 || peer == tile.group;
    }
    if (tile.group < 0) tile.k_size = 0;
    tile.group = max(tile.group, 0);
    tile.valid = label < 0 ? 0 : labelled_rows(tile);
    set_coordinates(tile, tile.row, tile.group * problem_.n + tile.column);
    tile.scale_b_row = tile.group * ceil_div(problem_.k, SCALE_K);
  }

  __device__ int label_at(int row) const { return row < problem_.m ? __ldg(problem_.layout + row) : -1; }

  // Padding comes last, and most tiles have none.
  __device__ int labelled_rows(const Tile& tile) const {
    int count = label_at(tile.row + BLOCK_M - 1) < 0 ? 0 : BLOCK_M;
    if (count == 0) {
      for (int step = BLOCK_M / 2; step > 0; step /= 2) {
        if (label_at(tile.row + count + step - 1) >= 0) count += step;
      }
    }
    return count;
  }

  __device__ void place_grouped(PlacedTile& tile) const {
    tile.group = group_;
    if constexpr (is_k_grouped(SCHEDULE)) {
      tile.rows = tile.valid = min(BLOCK_M, problem_.m - tile.row);
      set_coordinates(tile, tile.row, tile.column);
      tile.k_origin = origin_;
      tile.k_size = size_;
      tile.scale_a_row = tile.scale_b_row = scale_row_;
    } else if constexpr (SCHEDULE == Schedule::PREFIX_SUM) {
      tile.rows = min(BLOCK_M, written_rows() - tile.row);
      tile.valid = max(min(tile.rows, size_ - tile.row), 0);
      tile.row += origin_;
      set_coordinates(tile, tile.row, group_ * problem_.n + tile.column);
      tile.scale_b_row = group_ * ceil_div(problem_.k, SCALE_K);
    } else {
      tile.rows = tile.valid = min(BLOCK_M, (SCHEDULE == Schedule::MASKED ? size_ : problem_.m) - tile.row);
      set_coordinates(tile, group_ * problem_.m + tile.row, group_ * problem_.n + tile.column);
      tile.scale_a_column = tile.row;
      tile.scale_a_row = tile.scale_b_row = group_ * ceil_div(problem_.k, SCALE_K);
    }
  }

  static __device__ void set_coordinates(PlacedTile& tile, int a_row, int b_row) {
    tile.a_row = a_row;
    tile.b_row = b_row;
    tile.scale_a_column = a_row;
    tile.scale_a_row = tile.scale_b_row = 0;
  }

  // Split s takes blocks [s * total / splits, (s + 1) * total / splits): the declared boundaries.
  __device__ void divide_k(Tile& tile) const {
    const int total = ceil_div(tile.k_size, BLOCK_K);
    tile.block_begin = 0, tile.block_end = total;
    if (CLUSTER_K > 1) {
      tile.block_begin = tile.split * total / CLUSTER_K;
      tile.block_end = (tile.split + 1) * total / CLUSTER_K;
    } else if (problem_.splits > 1) {
      tile.block_begin = tile.split * total / problem_.splits;
      tile.block_end = (tile.split + 1) * total / problem_.splits;
    }
  }

  const Problem& problem_;
  const int rank_m_, rank_n_, rank_k_;
  int index_;
  const int tiles_n_;
  int tiles_m_;
  int size_;         // rows or K of the current group
  int group_ = -1;
  int before_ = 0;   // units in the groups before the current one
  int origin_ = 0;   // first row or first K of the current group
  int scale_row_ = 0;
  int band_ = 0, band_height_ = 1;
  int band_begin_ = 0, band_end_ = 0;  // units of the current group
  u32 band_inverse_ = 0;
};

}  // namespace dgref
