// Layers of a multilayer perceptron with ReLU between them, for many rows: float32, all of a tile's numbers in the cache.
//
// A matrix product by BLAS writes each layer's outputs to memory and reads them again, for the bias and for the ReLU
// once more each. Here kRows rows go through all layers at a time, and the sums of kGroup rows and 64 outputs are in
// registers from the first input to the last.

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
constexpr int kGroup = 6;  // rows whose sums are in registers together
constexpr int kRows = 48;  // rows of a tile, a multiple of kGroup

// Outputs of kGroup rows and V registers: max(0, in · weight + bias). ``stride`` numbers lie between the weight's rows.
template <int V>
void outputs(const float *in, int64_t inputs, const float *weight, int64_t stride, const float *bias, float *out,
             int64_t width) {
  __m512 sums[kGroup][V];
  for (int v = 0; v < V; ++v)
    for (int r = 0; r < kGroup; ++r)
      sums[r][v] = _mm512_loadu_ps(bias + v * kLanes);
  for (int64_t i = 0; i < inputs; ++i) {
    __m512 weights[V];
    for (int v = 0; v < V; ++v)
      weights[v] = _mm512_loadu_ps(weight + i * stride + v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < kGroup; ++r) {
      const __m512 value = _mm512_set1_ps(in[r * inputs + i]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sums[r][v] = _mm512_fmadd_ps(value, weights[v], sums[r][v]);
    }
  }
  const __m512 zero = _mm512_setzero_ps();
  for (int r = 0; r < kGroup; ++r)
    for (int v = 0; v < V; ++v)
      _mm512_storeu_ps(out + r * width + v * kLanes, _mm512_max_ps(sums[r][v], zero));
}

// One layer for ``rows`` rows (a multiple of kGroup); its width is a multiple of kLanes.
void layer(const float *in, int64_t rows, int64_t inputs, const float *weight, const float *bias, int64_t width,
           float *out) {
  for (int64_t at = 0; at < width;) {
    const int64_t registers = std::min<int64_t>(4, (width - at) / kLanes);
    for (int64_t row = 0; row < rows; row += kGroup) {
      const float *from = in + row * inputs;
      float *to = out + row * width + at;
      switch (registers) {
      case 4:
        outputs<4>(from, inputs, weight + at, width, bias + at, to, width);
        break;
      case 3:
        outputs<3>(from, inputs, weight + at, width, bias + at, to, width);
        break;
      case 2:
        outputs<2>(from, inputs, weight + at, width, bias + at, to, width);
        break;
      default:
        outputs<1>(from, inputs, weight + at, width, bias + at, to, width);
      }
    }
    at += registers * kLanes;
  }
}

struct Layers {
  int64_t count; // beside the last
  const int64_t *widths;
  const float *const *weights, *const *biases;
  const float *last;
  float last_bias;
};

float dot(const float *a, const float *b, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes)
    sum = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), sum);
  return _mm512_reduce_add_ps(sum);
}

// Add to ``results`` what the layers make of ``count`` rows; ``fill(row, to)`` writes a row of the first one's inputs.
template <class Fill> int forward(const Layers &net, int64_t count, float *results, Fill fill) {
  try {
    const int64_t widest = *std::max_element(net.widths, net.widths + net.count + 1);
    std::vector<float> memory(2 * kRows * widest);
    float *in = memory.data(), *out = memory.data() + kRows * widest;
    for (int64_t first = 0; first < count; first += kRows) {
      const int64_t here = std::min<int64_t>(kRows, count - first);
      const int64_t padded = (here + kGroup - 1) / kGroup * kGroup;
      for (int64_t row = 0; row < padded; ++row)
        fill(first + std::min(row, here - 1), in + row * net.widths[0]);
      for (int64_t l = 0; l < net.count; ++l) {
        layer(in, padded, net.widths[l], net.weights[l], net.biases[l], net.widths[l + 1], out);
        std::swap(in, out);
      }
      for (int64_t row = 0; row < here; ++row)
        results[first + row] += dot(in + row * net.widths[net.count], net.last, net.widths[net.count]) + net.last_bias;
    }
  } catch (const std::bad_alloc &) {
    return 1;
  }
  return 0;
}

} // namespace

#pragma GCC pop_options
#endif

extern "C" {

int layers_are_there() {
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

// Layer l has inputs widths[l] and outputs widths[l + 1], all multiples of 16, weights [widths[l], widths[l + 1]] and
// biases; the last one's inputs are widths[layers], its weights ``last``, and its only output comes without ReLU. Both
// functions add to ``results`` [count]; 1: no memory.

// The first inputs are max(0, rows + own): ``rows`` [count, widths[0]], ``own`` [widths[0]].
int layers_of_rows(const float *rows, const float *own, int64_t count, int64_t layers, const int64_t *widths,
                   const float *const *weights, const float *const *biases, const float *last, float last_bias,
                   float *results) {
  const int64_t width = widths[0];
  const __m512 zero = _mm512_setzero_ps();
  const auto fill = [=](int64_t row, float *to) {
    for (int64_t i = 0; i < width; i += kLanes) {
      const __m512 value = _mm512_add_ps(_mm512_loadu_ps(rows + row * width + i), _mm512_loadu_ps(own + i));
      _mm512_storeu_ps(to + i, _mm512_max_ps(value, zero));
    }
  };
  return forward(Layers{layers, widths, weights, biases, last, last_bias}, count, results, fill);
}

// The first inputs are max(0, sum) of a row of ``users``, one of ``items``, a row of ``table`` for each of the pair's
// ``numbers`` buckets [count, numbers], and slopes [numbers, widths[0]] times what they are for [count, numbers].
int layers_of_pairs(const float *users, const float *items, const int64_t *owner, const int64_t *item,
                    const float *table, const int64_t *buckets, const float *slopes, const float *values,
                    int64_t numbers, int64_t count, int64_t layers, const int64_t *widths,
                    const float *const *weights, const float *const *biases, const float *last, float last_bias,
                    float *results) {
  const int64_t width = widths[0];
  const __m512 zero = _mm512_setzero_ps();
  const auto fill = [=](int64_t row, float *to) {
    const float *user = users + owner[row] * width, *thing = items + item[row] * width;
    for (int64_t i = 0; i < width; i += kLanes) {
      __m512 sum = _mm512_add_ps(_mm512_loadu_ps(user + i), _mm512_loadu_ps(thing + i));
      for (int64_t n = 0; n < numbers; ++n) {
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(table + buckets[row * numbers + n] * width + i));
        sum = _mm512_fmadd_ps(_mm512_set1_ps(values[row * numbers + n]), _mm512_loadu_ps(slopes + n * width + i), sum);
      }
      _mm512_storeu_ps(to + i, _mm512_max_ps(sum, zero));
    }
  };
  return forward(Layers{layers, widths, weights, biases, last, last_bias}, count, results, fill);
}

#pragma GCC pop_options
#endif
}
