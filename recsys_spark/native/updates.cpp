// Rows of embedding tables that a batch has touched: which they are, the sums of their gradients, and their update.
//
// Each is a walk over rows that lie where no processor can guess, so that rows to come are asked for ahead. A number goes
// through the same operations, each rounded by itself, as by torch, whose square roots are not always the nearest number.

#include <cstdint>
#include <exception>
#include <vector>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// one function for each kind of processor, chosen as the library is loaded
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr int64_t kLine = 16;  // numbers of a cache line
constexpr int64_t kAhead = 12; // rows that are asked for before they are needed

inline void ask_for(const float *row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += kLine)
    __builtin_prefetch(row + d, 1);
}

bool are_rows(const int64_t *rows, int64_t count, int64_t size) {
  for (int64_t r = 0; r < count; ++r)
    if (rows[r] < 0 || rows[r] >= size)
      return false;
  return true;
}

} // namespace

// All give 0; 1: a row is not in the table, and nothing has been done; 2: no memory.
extern "C" {

// Rows [R] of a table of ``size``, each once and in order, into ``touched`` [R at most], and the place among them of each
// given one into ``place`` [R]; how many are touched, into ``found``.
int distinct_rows(const int64_t *rows, int64_t count, int64_t size, int64_t *touched, int64_t *place, int64_t *found) {
  if (!are_rows(rows, count, size))
    return 1;
  const int64_t words = size / 64 + 1;
  std::vector<uint64_t> marks;
  std::vector<int64_t> before;
  try {
    marks.resize(words);
    before.resize(words);
  } catch (const std::exception &) { // bad_alloc, or more than a vector can hold
    return 2;
  }
  for (int64_t r = 0; r < count; ++r)
    marks[rows[r] >> 6] |= uint64_t{1} << (rows[r] & 63);
  int64_t so_far = 0;
  for (int64_t w = 0; w < words; ++w) {
    before[w] = so_far;
    for (uint64_t left = marks[w]; left; left &= left - 1)
      touched[so_far++] = w * 64 + __builtin_ctzll(left);
  }
  for (int64_t r = 0; r < count; ++r) {
    const int64_t word = rows[r] >> 6;
    const uint64_t below = marks[word] & ((uint64_t{1} << (rows[r] & 63)) - 1);
    place[r] = before[word] + __builtin_popcountll(below);
  }
  *found = so_far;
  return 0;
}

// Add ``values`` [R, D] to the rows ``place`` [R] of ``sums`` [T, D], in this order.
FOR_EACH_PROCESSOR
int add_rows(const int64_t *place, int64_t count, int64_t dim, int64_t size, const float *values, float *sums) {
  if (!are_rows(place, count, size))
    return 1;
  for (int64_t r = 0; r < count; ++r) {
    if (r + kAhead < count)
      ask_for(sums + place[r + kAhead] * dim, dim);
    float *__restrict sum = sums + place[r] * dim;
    const float *__restrict value = values + r * dim;
    for (int64_t d = 0; d < dim; ++d)
      sum[d] += value[d];
  }
  return 0;
}

// Updates of rows [R], each once, of ``weight`` [N, D] by their ``gradient`` [R, D]; a weight is first multiplied by
// ``keep``. Of Adam, ``mean`` and ``square`` are [N, D]; of row-wise Adagrad, ``total`` is [N].

FOR_EACH_PROCESSOR
int lazy_adam(const int64_t *rows, int64_t count, int64_t dim, int64_t size, const float *gradient, float *weight,
              float *mean, float *square, float of_mean, float of_square, float epsilon, float step, float keep) {
  if (!are_rows(rows, count, size))
    return 1;
  for (int64_t r = 0; r < count; ++r) {
    if (r + kAhead < count) {
      const int64_t next = rows[r + kAhead] * dim;
      ask_for(weight + next, dim), ask_for(mean + next, dim), ask_for(square + next, dim);
    }
    const float *__restrict slope = gradient + r * dim;
    float *__restrict w = weight + rows[r] * dim;
    float *__restrict m = mean + rows[r] * dim;
    float *__restrict s = square + rows[r] * dim;
    for (int64_t d = 0; d < dim; ++d) {
      const float g = slope[d];
      m[d] += (g - m[d]) * of_mean;
      s[d] += (g * g - s[d]) * of_square;
      w[d] = w[d] * keep + m[d] / (__builtin_sqrtf(s[d]) + epsilon) * -step;
    }
  }
  return 0;
}

FOR_EACH_PROCESSOR
int rowwise_adagrad(const int64_t *rows, int64_t count, int64_t dim, int64_t size, const float *gradient, float *weight,
                    float *total, float epsilon, float step, float keep) {
  if (!are_rows(rows, count, size))
    return 1;
  for (int64_t r = 0; r < count; ++r) {
    if (r + kAhead < count) {
      ask_for(weight + rows[r + kAhead] * dim, dim);
      __builtin_prefetch(total + rows[r + kAhead], 1);
    }
    const float *__restrict slope = gradient + r * dim;
    float *__restrict w = weight + rows[r] * dim;
    float parts[kLine] = {}; // of a sum that the processor may make many at a time of
    int64_t d = 0;
    for (; d + kLine <= dim; d += kLine)
      for (int64_t lane = 0; lane < kLine; ++lane)
        parts[lane] += slope[d + lane] * slope[d + lane];
    for (; d < dim; ++d)
      parts[d % kLine] += slope[d] * slope[d];
    float sum = 0;
    for (float part : parts)
      sum += part;
    const float now = total[rows[r]] += sum / dim;
    const float change = -(step / (__builtin_sqrtf(now) + epsilon));
    for (d = 0; d < dim; ++d)
      w[d] = w[d] * keep + slope[d] * change;
  }
  return 0;
}

FOR_EACH_PROCESSOR
int gradient_descent(const int64_t *rows, int64_t count, int64_t dim, int64_t size, const float *gradient,
                     float *weight, float step, float keep) {
  if (!are_rows(rows, count, size))
    return 1;
  for (int64_t r = 0; r < count; ++r) {
    if (r + kAhead < count)
      ask_for(weight + rows[r + kAhead] * dim, dim);
    const float *__restrict slope = gradient + r * dim;
    float *__restrict w = weight + rows[r] * dim;
    for (int64_t d = 0; d < dim; ++d)
      w[d] = w[d] * keep + slope[d] * -step;
  }
  return 0;
}
}
