// Exact top-k of dot products behind a filter of whole numbers; the order of the steps is told in scoring/top_k.py.
//
// Shape legend: P packed items, D vector length, G = ceil((D - 1) / 4) groups of four places, k places of a list.
//
// The filter. A user is (x, w) and an item (y, b): the last place, where models keep an item's bias, stays as it is.
// x = t p + f and y = s q + e, p and q whole numbers of eight bits. Then
//     |x·y - t s p·q| <= ‖x‖ ‖e‖ + ‖f‖ ‖s q‖     (Cauchy and Schwarz, twice)
// so that t s p·q + w b plus this is an upper, and minus it a lower bound of the score. The k-th largest lower bound
// so far is a floor: an item whose upper bound is below it is in no list. One instruction multiplies and adds up 64
// pairs of eight bits, four times as many as it can of float32.
//
// Items are packed 16 by 16, so that a register holds four places of 16 items, and lie in order of falling norm: the
// floor is high early, and where no item can reach it by its norm any more, nothing is computed.
//
// Without bounds (``wide`` > 0), t s p·q + w b itself is the score by which the ``wide`` best are kept, of equal ones the
// smaller rows; only these are scored exactly. It is rounded after each step, so that the twin in Python has the same.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_KERNEL 1
#include <immintrin.h>
#else
#define HAS_KERNEL 0
#endif

namespace {

constexpr int kLanes = 16;         // items of a register
constexpr int kTile = 64;          // items whose products are formed together
constexpr int kUsers = 6;          // users whose products are formed together
constexpr int kBlock = 48;         // users that go through the items together
constexpr float kRounding = 1e-6f; // more than all float32 roundings of a bound, relative to ‖x‖ ‖y‖
constexpr float kAbsolute = 4 * FLT_MIN;
constexpr int kNearest = 0x08; // round to nearest, raise nothing: _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC
constexpr uint16_t kAll = 0xFFFF;

struct Items {
  const uint8_t *codes; // [P / 16, G, 16, 4], q + 128
  const float *scale;   // [P] s; 0 for padding
  const float *error;   // [P] ‖e‖ and what rounding adds, over ‖x‖
  const float *length;  // [P] ‖s q‖
  const float *last;    // [P] b
  const float *tile;    // [P / 64, 8] of a tile's items: largest error, length, ‖y‖, b, smallest b
  const int32_t *order; // [P] row of ``vectors``; -1 for padding
  const float *vectors; // [M, D], ``stride`` numbers from row to row
  int64_t packed, dim, stride, groups;
};

} // namespace

#if HAS_KERNEL
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

namespace {

// What may still be in a user's list: lower and upper bounds of scores, and places among the packed items.
struct Kept {
  std::vector<float> low, high;
  std::vector<int32_t> place;
  int64_t count = 0;

  void reserve(int64_t size) {
    if (static_cast<int64_t>(low.size()) < size) {
      low.resize(size);
      high.resize(size);
      place.resize(size);
    }
  }
};

struct User {
  float scale, norm, error, last; // t, ‖x‖, ‖f‖, w
  float floor;
};

int64_t at_least(const float *values, int64_t count, float bound) {
  const __m512 limit = _mm512_set1_ps(bound);
  int64_t found = 0, i = 0;
  for (; i + kLanes <= count; i += kLanes)
    found += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_loadu_ps(values + i), limit, _CMP_GE_OQ));
  if (i < count) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (count - i)) - 1);
    found += __builtin_popcount(
        _mm512_mask_cmp_ps_mask(rest, _mm512_maskz_loadu_ps(rest, values + i), limit, _CMP_GE_OQ));
  }
  return found;
}

// A value that at least k of the values reach, and not many more.
float floor_of(const float *values, int64_t count, int64_t k) {
  if (count < k)
    return -INFINITY;
  float low = values[0], high = values[0];
  for (int64_t i = 1; i < count; ++i) {
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  if (!std::isfinite(low) || !std::isfinite(high))
    return -INFINITY;
  const int64_t enough = k + k / 16;
  for (int turn = 0; turn < 24; ++turn) {
    const float middle = low + (high - low) * 0.5f;
    if (!(middle > low && middle < high))
      break;
    const int64_t found = at_least(values, count, middle);
    (found >= k ? low : high) = middle;
    if (found >= k && found <= enough)
      break;
  }
  return low;
}

// Raise the floor, and forget what is below it.
void tighten(Kept &kept, User &user, int64_t k) {
  user.floor = std::max(user.floor, floor_of(kept.low.data(), kept.count, k));
  const __m512 limit = _mm512_set1_ps(user.floor);
  int64_t to = 0;
  for (int64_t i = 0; i < kept.count; i += kLanes) {
    const int64_t left = kept.count - i;
    const __mmask16 here = left >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
    const __m512 high = _mm512_maskz_loadu_ps(here, &kept.high[i]), low = _mm512_maskz_loadu_ps(here, &kept.low[i]);
    const __m512i place = _mm512_maskz_loadu_epi32(here, &kept.place[i]);
    const __mmask16 stay = _mm512_mask_cmp_ps_mask(here, high, limit, _CMP_GE_OQ);
    const int number = __builtin_popcount(stay);
    const __mmask16 first = static_cast<__mmask16>((1u << number) - 1);
    _mm512_mask_storeu_ps(&kept.low[to], first, _mm512_maskz_compress_ps(stay, low));
    _mm512_mask_storeu_ps(&kept.high[to], first, _mm512_maskz_compress_ps(stay, high));
    _mm512_mask_storeu_epi32(&kept.place[to], first, _mm512_maskz_compress_epi32(stay, place));
    to += number;
  }
  kept.count = to;
}

// Products of kUsers users with the items of a tile, int32 [kUsers][4][16]; the sums begin with ``start``.
// The instruction is written out: around the intrinsic GCC 12 copies sums, and runs out of registers in one of the
// two kernels, which then takes 1.3 times as long.
inline void products(const uint8_t *codes, const int8_t *const *users, const int32_t *start, int64_t groups,
                     __m512i sums[kUsers][4]) {
  for (int u = 0; u < kUsers; ++u)
    for (int v = 0; v < 4; ++v)
      sums[u][v] = _mm512_set1_epi32(start[u]);
  const int64_t step = groups * 64;
  for (int64_t g = 0; g < groups; ++g) {
    const __m512i items[4] = {
        _mm512_loadu_si512(codes + g * 64), _mm512_loadu_si512(codes + step + g * 64),
        _mm512_loadu_si512(codes + 2 * step + g * 64), _mm512_loadu_si512(codes + 3 * step + g * 64)};
#pragma GCC unroll 6
    for (int u = 0; u < kUsers; ++u) {
      int32_t four;
      std::memcpy(&four, users[u] + g * 4, 4);
      const __m512i user = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v)
        asm("vpdpbusd %2, %1, %0" : "+v"(sums[u][v]) : "v"(items[v]), "v"(user));
    }
  }
}

// The score as it is defined: eight sums in float64, and these added up in one order.
inline float exact(const double *user, const float *item, int64_t dim) {
  __m512d sums = _mm512_setzero_pd();
  int64_t d = 0;
  for (; d + 8 <= dim; d += 8)
    sums = _mm512_fmadd_pd(_mm512_loadu_pd(user + d), _mm512_cvtps_pd(_mm256_loadu_ps(item + d)), sums);
  if (d < dim) {
    const __mmask8 rest = static_cast<__mmask8>((1u << (dim - d)) - 1);
    sums = _mm512_fmadd_pd(_mm512_maskz_loadu_pd(rest, user + d),
                           _mm512_cvtps_pd(_mm256_maskz_loadu_ps(rest, item + d)), sums);
  }
  alignas(64) double s[8];
  _mm512_store_pd(s, sums);
  const double total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
  return static_cast<float>(total) + 0.0f; // and no -0
}

// Larger scores first, then smaller rows: as one number that rises.
inline uint64_t key_of(float score, int32_t row) {
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u; // rises with the score
  return (static_cast<uint64_t>(~bits) << 32) | static_cast<uint32_t>(row);
}

inline float score_of(uint64_t key) {
  uint32_t bits = ~static_cast<uint32_t>(key >> 32);
  bits = bits & 0x80000000u ? bits & 0x7FFFFFFFu : ~bits;
  float score;
  std::memcpy(&score, &bits, 4);
  return score;
}

// Of what is kept the ``wide`` first by (score without bounds, row).
void narrow(const Items &items, Kept &kept, int64_t wide, std::vector<uint64_t> &keys) {
  for (int64_t i = 0; i < kept.count; ++i)
    keys[i] = key_of(kept.low[i] + 0.0f, items.order[kept.place[i]]); // and no -0
  if (wide < kept.count)
    std::nth_element(keys.begin(), keys.begin() + wide, keys.begin() + kept.count);
  kept.count = std::min(wide, kept.count);
}

void finish(const Items &items, const float *x, Kept &kept, User &user, int64_t k, int64_t wide,
            std::vector<double> &doubles, std::vector<uint64_t> &keys, int32_t *rows, float *scores) {
  tighten(kept, user, wide ? wide : k);
  const int64_t dim = items.dim;
  for (int64_t d = 0; d < dim; ++d)
    doubles[d] = x[d];
  keys.resize(kept.count);
  if (wide)
    narrow(items, kept, wide, keys);
  else
    for (int64_t i = 0; i < kept.count; ++i)
      keys[i] = static_cast<uint32_t>(items.order[kept.place[i]]);
  keys.resize(kept.count);
  constexpr int64_t ahead = 8;
  for (int64_t i = 0; i < kept.count; ++i) {
    if (i + ahead < kept.count) {
      const int64_t later = static_cast<uint32_t>(keys[i + ahead]);
      const char *next = reinterpret_cast<const char *>(items.vectors + later * items.stride);
      for (int64_t line = 0; line < dim * 4; line += 64)
        _mm_prefetch(next + line, _MM_HINT_T0);
    }
    const int32_t row = static_cast<int32_t>(static_cast<uint32_t>(keys[i]));
    keys[i] = key_of(exact(doubles.data(), items.vectors + row * items.stride, dim), row);
  }
  const int64_t found = std::min(k, kept.count);
  if (found < kept.count)
    std::nth_element(keys.begin(), keys.begin() + found, keys.end());
  std::sort(keys.begin(), keys.begin() + found);
  for (int64_t i = 0; i < found; ++i) {
    rows[i] = static_cast<int32_t>(static_cast<uint32_t>(keys[i]));
    scores[i] = score_of(keys[i]);
  }
}

// Whole numbers of a vector: values / scale, rounded; returns the scale, and the norm of what is left over.
float quantise(const float *values, int64_t dim, int8_t *codes, double *left, double *norm) {
  float largest = 0.0f;
  for (int64_t d = 0; d < dim; ++d)
    largest = std::max(largest, std::fabs(values[d]));
  const float scale = largest > 1e-30f ? largest / 127.0f : 0.0f;
  double squares = 0.0, rest = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    const float code = scale > 0.0f ? std::min(127.0f, std::max(-127.0f, std::nearbyint(values[d] / scale))) : 0.0f;
    codes[d] = static_cast<int8_t>(code);
    const double value = values[d], gone = value - static_cast<double>(code) * scale;
    squares += value * value;
    rest += gone * gone;
  }
  *left = std::sqrt(rest);
  *norm = std::sqrt(squares);
  return scale;
}

struct Workplace {
  std::vector<Kept> kept = std::vector<Kept>(kBlock);
  std::vector<int8_t> codes;
  std::vector<uint16_t> forbidden; // [kBlock, P / 16]
  std::vector<double> doubles;
  std::vector<uint64_t> keys;
};

// Lists of up to kBlock users.
template <bool kBounds>
void block(const Items &items, const float *users, int64_t count, int64_t k, int64_t wide, const int64_t *indptr,
           const int32_t *indices, const int32_t *place_of, Workplace &work, int32_t *rows, float *scores) {
  const int64_t dim = items.dim, width = items.groups * 4, words = items.packed / kLanes;
  const int64_t many = kBounds ? k : wide, trigger = std::max<int64_t>(512, 4 * many);
  User user[kBlock];
  int32_t start[kBlock + kUsers] = {};
  const int8_t *codes[kBlock + kUsers];
  const int64_t padded = (count + kUsers - 1) / kUsers * kUsers;
  std::fill(work.codes.begin(), work.codes.end(), 0);
  for (int64_t u = 0; u < padded; ++u)
    codes[u] = work.codes.data() + u * width;
  for (int64_t u = 0; u < count; ++u) {
    int8_t *mine = work.codes.data() + u * width;
    double left, norm;
    user[u].scale = quantise(users + u * dim, dim - 1, mine, &left, &norm);
    user[u].last = users[u * dim + dim - 1];
    user[u].norm = static_cast<float>(norm * (1 + 1e-6));
    user[u].error = static_cast<float>(left * (1 + 1e-6));
    user[u].floor = -INFINITY;
    int32_t sum = 0;
    for (int64_t d = 0; d + 1 < dim; ++d)
      sum += mine[d];
    start[u] = -128 * sum;
    work.kept[u].count = 0;
    work.kept[u].reserve(trigger + kTile);
    if (indptr)
      for (int64_t i = indptr[u]; i < indptr[u + 1]; ++i) {
        const int32_t place = place_of[indices[i]];
        if (place >= 0)
          work.forbidden[u * words + place / kLanes] |= static_cast<uint16_t>(1u << (place % kLanes));
      }
  }
  const __m512i ramp = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int64_t first = 0; first < items.packed; first += kTile) {
    const float *most = items.tile + first / kTile * 8;
    const uint8_t *tile = items.codes + first / kLanes * items.groups * 64;
    for (int64_t group = 0; group < padded; group += kUsers) {
      const int here = static_cast<int>(std::min<int64_t>(kUsers, count - group));
      float limit[kUsers];
      bool any = false;
      for (int u = 0; u < here; ++u) {
        const User &each = user[group + u];
        const float best = std::max(each.last * most[3], each.last * most[4]); // of w b
        const float largest = std::max(std::fabs(each.last * most[3]), std::fabs(each.last * most[4]));
        // what t s p·q + w b must reach, so that the upper bound can reach the floor
        limit[u] = each.floor - (each.norm * most[0] + each.error * most[1]) * 1.00001f;
        limit[u] -= 2 * kRounding * (std::fabs(each.floor) + largest) + kAbsolute;
        any |= each.norm * most[2] * 1.00001f + best >= limit[u];
      }
      if (!any)
        continue;
      __m512i sums[kUsers][4];
      products(tile, codes + group, start + group, items.groups, sums);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const int64_t place = first + v * kLanes;
        const __m512 scale = _mm512_loadu_ps(items.scale + place), last = _mm512_loadu_ps(items.last + place);
#pragma GCC unroll 6
        for (int u = 0; u < kUsers; ++u) {
          if (u >= here)
            break;
          User &each = user[group + u];
          const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[u][v]), scale);
          const __m512 own = _mm512_mul_ps(last, _mm512_set1_ps(each.last));
          __m512 middle;
          if constexpr (kBounds)
            middle = _mm512_fmadd_ps(product, _mm512_set1_ps(each.scale), own);
          else // with a rounding told, since a compiler makes one step of two without
            middle = _mm512_maskz_add_round_ps(
                kAll, _mm512_maskz_mul_round_ps(kAll, product, _mm512_set1_ps(each.scale), kNearest), own, kNearest);
          const __m512 least = _mm512_set1_ps(kBounds ? limit[u] : each.floor);
          __mmask16 hits = _mm512_cmp_ps_mask(middle, least, _CMP_GE_OQ);
          if (__builtin_expect(hits == 0, 1))
            continue;
          if (indptr)
            hits &= static_cast<__mmask16>(~work.forbidden[(group + u) * words + place / kLanes]);
          __m512 high = middle, low = middle;
          if constexpr (kBounds) {
            const __m512 error = _mm512_loadu_ps(items.error + place), length = _mm512_loadu_ps(items.length + place);
            __m512 bound = _mm512_fmadd_ps(_mm512_set1_ps(each.norm), error,
                                           _mm512_mul_ps(_mm512_set1_ps(each.error), length));
            bound = _mm512_fmadd_ps(_mm512_abs_ps(own), _mm512_set1_ps(kRounding), bound);
            bound = _mm512_fmadd_ps(bound, _mm512_set1_ps(1.00001f), _mm512_set1_ps(kAbsolute));
            high = _mm512_add_ps(middle, bound), low = _mm512_sub_ps(middle, bound);
            hits = _mm512_mask_cmp_ps_mask(hits, high, _mm512_set1_ps(each.floor), _CMP_GE_OQ);
          }
          const __m512i inside = _mm512_loadu_si512(items.order + place);
          hits = _mm512_mask_cmpge_epi32_mask(hits, inside, _mm512_setzero_si512()); // not the padding
          if (hits == 0)
            continue;
          Kept &kept = work.kept[group + u];
          if (kept.count + kLanes > static_cast<int64_t>(kept.low.size()))
            kept.reserve(kept.count * 2 + kTile);
          const __m512i places = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(place)), ramp);
          _mm512_storeu_ps(&kept.low[kept.count], _mm512_maskz_compress_ps(hits, low));
          _mm512_storeu_ps(&kept.high[kept.count], _mm512_maskz_compress_ps(hits, high));
          _mm512_storeu_epi32(&kept.place[kept.count], _mm512_maskz_compress_epi32(hits, places));
          kept.count += __builtin_popcount(hits);
          if (kept.count + kLanes > static_cast<int64_t>(kept.low.size())) {
            tighten(kept, each, many);
            if (kept.count * 2 > static_cast<int64_t>(kept.low.size()))
              kept.reserve(kept.count * 4); // as good as equal scores: the floor does not part them
          }
        }
      }
    }
  }
  for (int64_t u = 0; u < count; ++u) {
    finish(items, users + u * dim, work.kept[u], user[u], k, kBounds ? 0 : wide, work.doubles, work.keys, rows + u * k,
           scores + u * k);
    if (indptr)
      for (int64_t i = indptr[u]; i < indptr[u + 1]; ++i) {
        const int32_t place = place_of[indices[i]];
        if (place >= 0)
          work.forbidden[u * words + place / kLanes] = 0;
      }
  }
}

} // namespace

#pragma GCC pop_options
#endif

extern "C" {

// Whether this processor has the instructions.
int top_k_is_there() {
#if HAS_KERNEL
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return 0;
#endif
}

#if HAS_KERNEL

// Pack items: ``order`` [P] names the row of each place (-1: padding), P a multiple of 64.
void top_k_pack(const float *vectors, int64_t stride, const int32_t *order, int64_t packed, int64_t dim,
                uint8_t *codes, float *scale, float *error, float *length, float *last, float *tile) {
  const int64_t groups = (dim + 2) / 4;
  std::vector<int8_t> mine(groups * 4);
  std::memset(codes, 128, packed * groups * 4);
  std::fill(tile, tile + packed / kTile * 8, 0.0f);
  for (int64_t place = 0; place < packed; ++place) {
    scale[place] = error[place] = length[place] = last[place] = 0.0f;
    const int32_t row = order[place];
    if (row < 0)
      continue;
    double left, norm, whole = 0.0;
    const float *vector = vectors + row * stride;
    scale[place] = quantise(vector, dim - 1, mine.data(), &left, &norm);
    for (int64_t d = 0; d + 1 < dim; ++d)
      whole += static_cast<double>(mine[d]) * mine[d];
    error[place] = static_cast<float>((left + kRounding * norm) * (1 + 1e-6));
    length[place] = static_cast<float>(std::sqrt(whole) * scale[place] * (1 + 1e-6));
    last[place] = vector[dim - 1];
    float *most = tile + place / kTile * 8;
    if (place % kTile == 0)
      most[3] = most[4] = last[place];
    most[0] = std::max(most[0], error[place]);
    most[1] = std::max(most[1], length[place]);
    most[2] = std::max(most[2], static_cast<float>(norm * (1 + 1e-6)));
    most[3] = std::max(most[3], last[place]);
    most[4] = std::min(most[4], last[place]);
    uint8_t *at = codes + place / kLanes * groups * 64 + place % kLanes * 4;
    for (int64_t d = 0; d + 1 < dim; ++d)
      at[d / 4 * 64 + d % 4] = static_cast<uint8_t>(mine[d] + 128);
  }
}

// Lists of ``count`` users [count, D]. ``wide``: how many are kept without bounds; 0: exact lists. ``indptr``,
// ``indices``: forbidden rows of items, or null. ``place_of`` [M]: -1 where an item is not packed. ``rows`` [count, k]
// comes filled with -1, ``scores`` [count, k] with -inf. 1: no memory.
int top_k_lists(const float *users, int64_t count, int64_t k, int64_t wide, const uint8_t *codes, const float *scale,
                const float *error, const float *length, const float *last, const float *tile, const int32_t *order,
                const float *vectors, int64_t stride, int64_t packed, int64_t dim, const int64_t *indptr,
                const int32_t *indices, const int32_t *place_of, int32_t *rows, float *scores) {
  const Items items{codes, scale, error, length, last, tile, order, vectors, packed, dim, stride, (dim + 2) / 4};
  try {
    Workplace work;
    work.codes.resize((kBlock + kUsers) * items.groups * 4);
    work.doubles.resize(dim);
    if (indptr)
      work.forbidden.resize(kBlock * (packed / kLanes));
    const auto lists = wide ? block<false> : block<true>;
    for (int64_t start = 0; start < count; start += kBlock)
      lists(items, users + start * dim, std::min<int64_t>(kBlock, count - start), k, wide,
            indptr ? indptr + start : nullptr, indices, place_of, work, rows + start * k, scores + start * k);
  } catch (const std::bad_alloc &) {
    return 1;
  }
  return 0;
}

#endif
}
