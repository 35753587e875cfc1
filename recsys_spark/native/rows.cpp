// Rows of a window of training examples: out of the columns of its files, into a batch, in any order.
//
// The copying is nothing, the fetching all: a run of rows lies where no processor can guess, so that the runs to come are
// asked for ahead. Where each run lies is worked out once for all columns.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int64_t kLine = 64;    // bytes of a cache line
constexpr int64_t kAhead = 2048; // bytes that are asked for before they are needed
constexpr int64_t kMost = 4;     // lines of a run that are asked for; the processor goes on by itself

// Rows that lie one after the other in one part.
struct Piece {
  int32_t part;
  int32_t rows;
  int64_t first; // in the part
};

void copy(char *to, const char *from, int64_t bytes) {
  for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine)
    std::memcpy(to, from, kLine); // of a length that is known here: a few instructions, no call
  for (; bytes >= 8; bytes -= 8, to += 8, from += 8)
    std::memcpy(to, from, 8);
  if (bytes >= 4) {
    std::memcpy(to, from, 4);
    bytes -= 4, to += 4, from += 4;
  }
  for (; bytes > 0; --bytes)
    *to++ = *from++;
}

void copy_column(const std::vector<Piece> &pieces, const char *const *from, int64_t size, char *to) {
  const int64_t count = pieces.size();
  const int64_t usual = std::max(kLine, pieces[count / 2].rows * size);
  const int64_t ahead = std::max<int64_t>(2, kAhead / usual);
  for (int64_t p = 0; p < count; ++p) {
    if (p + ahead < count) {
      const Piece &next = pieces[p + ahead];
      const char *its = from[next.part] + next.first * size;
      const int64_t bytes = std::min(next.rows * size, kMost * kLine);
      for (int64_t line = 0; line < bytes; line += kLine)
        __builtin_prefetch(its + line);
    }
    const Piece &piece = pieces[p];
    const int64_t bytes = piece.rows * size;
    copy(to, from[piece.part] + piece.first * size, bytes);
    to += bytes;
  }
}

} // namespace

extern "C" {

// Rows of ``count`` runs, without the first ``skip`` of them, until there are ``rows``. Rows are numbered through all
// parts: ``bounds`` [P + 1] are the first of each part, and the number of all. ``part`` is that of a run's first row; a
// run may go on in the next one. ``from`` [C, P]: values of each column in each part, of ``size`` [C] bytes a row. Column
// c lies in ``block`` from byte ``offset[c]`` on, and is written there from row ``at`` on. 1: no memory.
int gather_rows(const int64_t *first, const int64_t *length, const int32_t *part, int64_t count, int64_t skip,
                int64_t rows, const int64_t *bounds, int64_t parts, const char *const *from, const int64_t *size,
                int64_t columns, char *block, const int64_t *offset, int64_t at) {
  std::vector<Piece> pieces;
  try {
    for (int64_t r = 0; r < count && rows > 0; ++r, skip = 0) {
      int64_t row = first[r] + skip, left = std::min(length[r] - skip, rows);
      rows -= left;
      for (int32_t its = part[r]; left > 0; ++its) {
        const int64_t here = std::min(left, bounds[its + 1] - row);
        if (here <= 0) // an empty part, or one that was skipped
          continue;
        pieces.push_back({its, static_cast<int32_t>(here), row - bounds[its]});
        row += here;
        left -= here;
      }
    }
  } catch (const std::bad_alloc &) {
    return 1;
  }
  if (!pieces.empty())
    for (int64_t c = 0; c < columns; ++c)
      copy_column(pieces, from + c * parts, size[c], block + offset[c] + at * size[c]);
  return 0;
}
}
