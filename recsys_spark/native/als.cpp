// Conjugate gradients for alternating least squares: one row of a table against the fixed other table, at a time.
//
// A row x with pairs (v_j, w_j) solves (G + λ I + Σ w_j v_j v_jᵀ) x = Σ w_j v_j. The matrix is never formed: its product
// with a direction p is G p + λ p + Σ w_j (v_j · p) v_j (Takács et al. 2011). The row's vectors v_j, gathered for the
// first product, are in the cache for those that follow. Each row is computed by itself and in one order, so that threads
// may share the rows in any way.

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_KERNEL 1
#include <immintrin.h>
#else
#define HAS_KERNEL 0
#endif

#if HAS_KERNEL
#pragma GCC push_options
#pragma GCC target("avx512f")

namespace {

constexpr int kLanes = 16;
constexpr int kPairs = 8;      // pairs that go through a direction together
constexpr int64_t kAhead = 16; // pairs whose vectors are asked for before they are needed
constexpr float kNothing = 1e-20f; // squared length of a residual from which on a row is solved

// Vectors of ``dim`` numbers, in registers of kLanes; the last one holds what is left.
struct Shape {
  int64_t dim, registers;
  __mmask16 last;

  explicit Shape(int64_t dim)
      : dim(dim), registers((dim + kLanes - 1) / kLanes),
        last(static_cast<__mmask16>(0xFFFF >> (registers * kLanes - dim))) {}

  __mmask16 mask(int64_t at) const { return at + 1 == registers ? last : 0xFFFF; }
};

float dot(const Shape &shape, const float *a, const float *b) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t c = 0; c < shape.registers; ++c) {
    const __mmask16 mask = shape.mask(c);
    sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + c * kLanes), _mm512_maskz_loadu_ps(mask, b + c * kLanes), sum);
  }
  return _mm512_reduce_add_ps(sum);
}

// to += factor * from
void add(const Shape &shape, float factor, const float *from, float *to) {
  const __m512 times = _mm512_set1_ps(factor);
  for (int64_t c = 0; c < shape.registers; ++c) {
    const __mmask16 mask = shape.mask(c);
    const __m512 sum = _mm512_fmadd_ps(times, _mm512_maskz_loadu_ps(mask, from + c * kLanes),
                                       _mm512_maskz_loadu_ps(mask, to + c * kLanes));
    _mm512_mask_storeu_ps(to + c * kLanes, mask, sum);
  }
}

// Eight sums of a register's lanes each, one after the other.
__m256 lane_sums(const __m512 (&v)[kPairs]) {
  __m256 h[kPairs];
  for (int i = 0; i < kPairs; ++i)
    h[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]),
                         _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v[i]), 1)));
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(h[0], h[1]), _mm256_hadd_ps(h[2], h[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(h[4], h[5]), _mm256_hadd_ps(h[6], h[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

struct Pairs {
  const int32_t *indices;
  const float *weights;
  int64_t count;
};

// out += Σ w_j (target - v_j · p) v_j; returns Σ w_j (target - v_j · p)².
float products(const Shape &shape, const Pairs &pairs, const float *fixed, const float *p, float target, float *out) {
  float squares = 0.0f;
  for (int64_t j = 0; j < pairs.count; j += kPairs) {
    const int here = static_cast<int>(std::min<int64_t>(kPairs, pairs.count - j));
    const float *v[kPairs];
    for (int i = 0; i < kPairs; ++i)
      v[i] = fixed + static_cast<int64_t>(pairs.indices[j + std::min(i, here - 1)]) * shape.dim;
    for (int64_t i = j + kAhead; i < std::min(pairs.count, j + kAhead + kPairs); ++i)
      for (int64_t c = 0; c < shape.registers; ++c)
        _mm_prefetch(fixed + static_cast<int64_t>(pairs.indices[i]) * shape.dim + c * kLanes, _MM_HINT_T0);
    __m512 sums[kPairs];
    for (int i = 0; i < kPairs; ++i)
      sums[i] = _mm512_setzero_ps();
    for (int64_t c = 0; c < shape.registers; ++c) {
      const __mmask16 mask = shape.mask(c);
      const __m512 direction = _mm512_maskz_loadu_ps(mask, p + c * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kPairs; ++i)
        sums[i] = _mm512_fmadd_ps(direction, _mm512_maskz_loadu_ps(mask, v[i] + c * kLanes), sums[i]);
    }
    alignas(32) float off[kPairs], factors[kPairs];
    _mm256_store_ps(off, _mm256_sub_ps(_mm256_set1_ps(target), lane_sums(sums)));
    for (int i = 0; i < kPairs; ++i) {
      const float weight = i < here ? pairs.weights[j + i] : 0.0f;
      factors[i] = weight * off[i];
      squares += i < here ? factors[i] * off[i] : 0.0f;
      factors[i] = i < here ? factors[i] : 0.0f;
    }
    for (int64_t c = 0; c < shape.registers; ++c) {
      const __mmask16 mask = shape.mask(c);
      __m512 sum = _mm512_maskz_loadu_ps(mask, out + c * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kPairs; ++i)
        sum = _mm512_fmadd_ps(_mm512_set1_ps(factors[i]), _mm512_maskz_loadu_ps(mask, v[i] + c * kLanes), sum);
      _mm512_mask_storeu_ps(out + c * kLanes, mask, sum);
    }
  }
  return squares;
}

// out = G p + λ p
void penalty(const Shape &shape, const float *gram, float ridge, const float *p, float *out) {
  for (int64_t c = 0; c < shape.registers; c += 4) {
    const int64_t here = std::min<int64_t>(4, shape.registers - c);
    __m512 sums[4];
    __mmask16 masks[4];
    for (int64_t k = 0; k < 4; ++k) {
      masks[k] = k < here ? shape.mask(c + k) : 0;
      sums[k] = _mm512_mul_ps(_mm512_set1_ps(ridge), _mm512_maskz_loadu_ps(masks[k], p + (c + k) * kLanes));
    }
    for (int64_t i = 0; i < shape.dim; ++i) {
      const __m512 value = _mm512_set1_ps(p[i]);
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k)
        sums[k] = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(masks[k], gram + i * shape.dim + (c + k) * kLanes), sums[k]);
    }
    for (int64_t k = 0; k < here; ++k)
      _mm512_mask_storeu_ps(out + (c + k) * kLanes, masks[k], sums[k]);
  }
}

} // namespace

#pragma GCC pop_options
#endif

extern "C" {

int als_is_there() {
#if HAS_KERNEL
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") ? 1 : 0;
#else
  return 0;
#endif
}

#if HAS_KERNEL
#pragma GCC push_options
#pragma GCC target("avx512f")

// Rows first to last - 1 of ``table`` [rows, dim] by ``steps`` of conjugate gradients, from what they are. A row's pairs
// are those from indptr[row] to indptr[row + 1]; ``fixed`` [_, dim], ``gram`` [dim, dim], ``ridge`` [rows]. A row
// without pairs becomes 0. What is left of its Σ w (1 - v·x)² + xᵀ (G + λ I) x is in ``losses``, row ``first`` before all
// others. 1: no memory.
int als_solve(const int64_t *indptr, const int32_t *indices, const float *weights, const float *fixed,
              const float *gram, const float *ridge, float *table, double *losses, int64_t first, int64_t last,
              int64_t dim, int64_t steps) {
  const Shape shape(dim);
  std::vector<float> memory;
  try {
    memory.resize(3 * dim);
  } catch (const std::bad_alloc &) {
    return 1;
  }
  float *r = memory.data(), *p = r + dim, *q = p + dim;
  for (int64_t row = first; row < last; ++row, ++losses) {
    const Pairs pairs{indices + indptr[row], weights + indptr[row], indptr[row + 1] - indptr[row]};
    float *x = table + row * dim;
    if (pairs.count == 0) {
      std::fill(x, x + dim, 0.0f);
      *losses = 0.0;
      continue;
    }
    penalty(shape, gram, ridge[row], x, q);
    double loss = dot(shape, x, q);
    std::fill(r, r + dim, 0.0f);
    loss += products(shape, pairs, fixed, x, 1.0f, r);
    add(shape, -1.0f, q, r);
    std::copy(r, r + dim, p);
    float length = dot(shape, r, r);
    for (int64_t step = 0; step < steps && !(length < kNothing); ++step) {
      penalty(shape, gram, ridge[row], p, q);
      for (int64_t i = 0; i < dim; ++i)
        q[i] = -q[i];
      products(shape, pairs, fixed, p, 0.0f, q); // q = -A p
      const float size = length / -dot(shape, p, q);
      add(shape, size, p, x);
      add(shape, size, q, r);
      loss -= static_cast<double>(size) * length;
      const float now = dot(shape, r, r), factor = now / length;
      for (int64_t i = 0; i < dim; ++i)
        p[i] = r[i] + factor * p[i];
      length = now;
    }
    *losses = loss;
  }
  return 0;
}

// For rows first to last - 1, with p of ``points`` [_, dim], whose first row is that of ``first``: a row of ``out``
// [_, dim + 1] becomes Σ w (target - v·p) v and, last, Σ w (target - v·p)².
void als_products(const int64_t *indptr, const int32_t *indices, const float *weights, const float *fixed,
                  const float *points, float *out, int64_t first, int64_t last, int64_t dim, float target) {
  const Shape shape(dim);
  for (int64_t row = first; row < last; ++row, points += dim, out += dim + 1) {
    const Pairs pairs{indices + indptr[row], weights + indptr[row], indptr[row + 1] - indptr[row]};
    std::fill(out, out + dim, 0.0f);
    out[dim] = products(shape, pairs, fixed, points, target, out);
  }
}

#pragma GCC pop_options
#endif
}
