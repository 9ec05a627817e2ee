// Sizes and places in the fused attention on the CPU; psa_attention_cpu.cc says what p, r and a strip are.
#pragma once

#include <algorithm>

#include "psa_attention.h"
#include "simd.h"

namespace psa {

constexpr int64_t kStripColumns = 80;  // no power of two: a strip's rows would compete for the same cache lines

inline int64_t CeilDivide(int64_t x, int64_t y) { return (x + y - 1) / y; }

// Rows and columns are the feature map's.
struct Geometry : PsaAttentionGeometry {
  Geometry(const PsaAttentionGeometry& geometry, bool own)
      : PsaAttentionGeometry(geometry),
        own(own),
        compact(mask_height == 0),
        half_h(mask_height / 2),
        half_w(mask_width / 2),
        reach(std::min(half_w, width - 1)),
        distances(compact ? width : 2 * reach + 1),
        covers(compact || (half_h >= height - 1 && half_w >= width - 1)),
        tiles(CeilDivide(width, kTileRows)),
        blocks_in_row(CeilDivide(tiles, kStripColumns / kTileRows)),
        tiles_in_block(CeilDivide(tiles, blocks_in_row)),
        row_channels(CeilDivide(channels, kChannelStep) * kChannelStep),
        row_stride(row_channels + 16) {}

  int64_t Positions() const { return height * width; }
  int64_t MaskSize() const { return (compact ? Positions() : mask_height * mask_width) * Positions(); }

  // The map rows whose r a p of row h reaches.
  int64_t FirstRow(int64_t h) const { return compact ? 0 : std::max<int64_t>(0, h - half_h); }
  int64_t EndRow(int64_t h) const { return compact ? height : std::min(height, h + half_h + 1); }
  // The columns of r that any p of a tile reaches.
  int64_t FirstColumn(int64_t tile) const { return compact ? 0 : std::max<int64_t>(0, tile * kTileRows - reach); }
  int64_t EndColumn(int64_t tile) const { return compact ? width : std::min(width, (tile + 1) * kTileRows + reach); }
  int64_t PositionsNotReached(int64_t h, int64_t w) const {
    const int64_t reached = std::min(width, w + half_w + 1) - std::max<int64_t>(0, w - half_w);
    return covers ? 0 : Positions() - (EndRow(h) - FirstRow(h)) * reached;
  }
  // The column of r in a strip's row `distance` and p's column w.
  int64_t ColumnOfR(int64_t distance, int64_t w) const { return compact ? distance : w + distance - reach; }
  // The logit between p = (h, w) and r = (r_h, ColumnOfR(distance, w)) is mask[Logit(h, r_h, distance) + w * LogitStep()].
  int64_t Logit(int64_t h, int64_t r_h, int64_t distance) const {
    const int64_t p = h * width, r = r_h * width + ColumnOfR(distance, 0);
    if (compact) return own ? r * Positions() + p : p * Positions() + r;
    const int64_t i = r_h - h, j = distance - reach;
    const int64_t channel = own ? (half_h + i) * mask_width + half_w + j : (half_h - i) * mask_width + half_w - j;
    return channel * Positions() + (own ? p : r);
  }
  int64_t LogitStep() const { return compact && !own ? Positions() : 1; }

  bool own;  // whether a logit is from p's mask, otherwise from r's
  bool compact;
  int64_t half_h, half_w, reach, distances;
  bool covers;                                   // whether every p reaches every r
  int64_t tiles, blocks_in_row, tiles_in_block;  // of kTileRows columns each; what fits a strip is a block, the unit of work
  int64_t row_channels;                          // of a position in channels-last values, padded with zeros
  int64_t row_stride;                            // an odd number of cache lines: rows would compete for the same
};

// Positions p of one map row, as many as a strip has columns.
struct Block {
  Block(const Geometry& g, int64_t index)
      : n(index / g.blocks_in_row / g.height),
        h(index / g.blocks_in_row % g.height),
        first_tile(std::min(g.tiles, index % g.blocks_in_row * g.tiles_in_block)),
        end_tile(std::min(g.tiles, first_tile + g.tiles_in_block)),
        begin(std::min(g.width, first_tile * kTileRows)),
        end(std::min(g.width, end_tile * kTileRows)) {}

  // The columns of p whose r in a strip's row `distance` exists.
  int64_t Begin(const Geometry& g, int64_t distance) const {
    return g.compact ? begin : std::min(end, std::max(begin, g.reach - distance));
  }
  int64_t End(const Geometry& g, int64_t distance) const {
    return g.compact ? end : std::max(begin, std::min(end, g.width + g.reach - distance));
  }

  int64_t n, h, first_tile, end_tile;
  int64_t begin, end;  // columns
};

}  // namespace psa
