// Layers of a multilayer perceptron with ReLU between them, by whole numbers of eight bits, and how far off that is at
// most.
//
// Shape legend: I inputs, a multiple of 16, and O outputs, one of 64, of a layer; a its inputs, W its weights.
//
// Inputs a >= 0 are s q + f, q whole numbers from 0 to 255; weights are t P + E, P whole numbers from -127 to 127 and t
// a number for each output. One instruction multiplies and adds up 64 of them. With â = s q,
//     ‖W a - t P â‖ <= ‖W‖ ‖a - â‖ + ‖E‖ ‖â‖        (spectral norms)
// ReLU brings no two vectors further apart, and ‖f‖ is measured; so the bound goes on from layer to layer, and the
// last layer's weights w make of it ‖w‖ times as much. What floating-point numbers round is part of it, here and in the
// float32 layers of layers.cpp (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

namespace {

constexpr int kLanes = 16;
constexpr int kGroup = 6;    // rows whose sums are in registers together
constexpr int kColumns = 4;  // and the registers of each
constexpr int kRows = 48;  // rows of a tile, a multiple of kGroup
constexpr float kUnit = 6e-8f;      // rounding of float32, 2^-24 and a little
constexpr float kWider = 1.0001f;   // norms and bounds are floating-point sums themselves

struct Layer {
  int64_t inputs, outputs;
  const int8_t *codes;           // P: [O / 16, I / 4, 16, 4]
  const float *scales, *biases;  // t: [O], [O]
  float norm, left, size, bias;  // ‖W‖, ‖E‖, and by Frobenius ‖W‖ and ‖biases‖
};

// Sums of products of six rows ``in`` and 64 outputs, [6, 4, 16]. Written out, since GCC 12 keeps the sums in memory
// around an instruction of its own, and copies them around an intrinsic.
inline void products(const uint8_t *in, const int8_t *codes, int64_t inputs, __m512i *sums) {
  const int8_t *fourth = codes + 3 * inputs * kLanes;
  const uint8_t *later = in + 3 * inputs;
  int64_t left = inputs;
#define ROW(from, a, b, c, d)                                                                                          \
  "vpbroadcastd " from ", %%zmm28\n"                                                                                   \
  "vpdpbusd %%zmm24, %%zmm28, %%zmm" a "\n"                                                                            \
  "vpdpbusd %%zmm25, %%zmm28, %%zmm" b "\n"                                                                            \
  "vpdpbusd %%zmm26, %%zmm28, %%zmm" c "\n"                                                                            \
  "vpdpbusd %%zmm27, %%zmm28, %%zmm" d "\n"
#define EACH(DO)                                                                                                       \
  DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17)  \
  DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#define ZERO(n) "vpxord %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n"
#define STORE(n) "vmovdqu64 %%zmm" #n ", 64*" #n "(%[sums])\n"
  asm volatile(EACH(ZERO) "1:\n"
               "vmovdqu64 (%[codes]), %%zmm24\n"
               "vmovdqu64 (%[codes], %[step]), %%zmm25\n"
               "vmovdqu64 (%[codes], %[step], 2), %%zmm26\n"
               "vmovdqu64 (%[fourth]), %%zmm27\n"
               ROW("(%[in])", "0", "1", "2", "3")
               ROW("(%[in], %[inputs])", "4", "5", "6", "7")
               ROW("(%[in], %[inputs], 2)", "8", "9", "10", "11")
               ROW("(%[later])", "12", "13", "14", "15")
               ROW("(%[later], %[inputs])", "16", "17", "18", "19")
               ROW("(%[later], %[inputs], 2)", "20", "21", "22", "23")
               "add $64, %[codes]\n"
               "add $64, %[fourth]\n"
               "add $4, %[in]\n"
               "add $4, %[later]\n"
               "sub $4, %[left]\n"
               "jnz 1b\n" EACH(STORE)
               : [codes] "+&r"(codes), [fourth] "+&r"(fourth), [in] "+&r"(in), [later] "+&r"(later), [left] "+&r"(left)
               : [step] "r"(inputs * kLanes), [inputs] "r"(inputs), [sums] "r"(sums)
               : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
                 "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28");
#undef ROW
#undef EACH
#undef ZERO
#undef STORE
}

// Outputs of ``rows`` rows, a multiple of kGroup.
void through(const uint8_t *in, const float *scale, int64_t rows, const Layer &layer, float *out) {
  alignas(64) __m512i sums[kGroup * kColumns];
  const __m512 zero = _mm512_setzero_ps();
  for (int64_t first = 0; first < layer.outputs; first += kColumns * kLanes)
    for (int64_t row = 0; row < rows; row += kGroup) {
      products(in + row * layer.inputs, layer.codes + first * layer.inputs, layer.inputs, sums);
      for (int v = 0; v < kColumns; ++v) {
        const int64_t at = first + v * kLanes;
        const __m512 t = _mm512_loadu_ps(layer.scales + at), bias = _mm512_loadu_ps(layer.biases + at);
        for (int r = 0; r < kGroup; ++r) {
          const __m512 each = _mm512_mul_ps(t, _mm512_set1_ps(scale[row + r]));
          const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r * kColumns + v]), each, bias);
          _mm512_storeu_ps(out + (row + r) * layer.outputs + at, _mm512_max_ps(value, zero));
        }
      }
    }
}

// Whole numbers of values >= 0; the scale, and norms of the values and of what is left over.
inline float quantise(const float *values, int64_t size, uint8_t *codes, float *norm, float *left) {
  __m512 most = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes)
    most = _mm512_max_ps(most, _mm512_loadu_ps(values + i));
  const float largest = _mm512_reduce_max_ps(most);
  const float scale = largest > 1e-30f ? largest / 255.0f : 0.0f;
  const __m512 inverse = _mm512_set1_ps(scale > 0.0f ? 1.0f / scale : 0.0f), back = _mm512_set1_ps(scale);
  __m512 squares = _mm512_setzero_ps(), rest = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 value = _mm512_loadu_ps(values + i);
    const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(value, inverse));
    const __m128i bytes = _mm512_cvtusepi32_epi8(code);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + i), bytes);
    const __m512 gone = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), back, value);
    squares = _mm512_fmadd_ps(value, value, squares);
    rest = _mm512_fmadd_ps(gone, gone, rest);
  }
  *norm = std::sqrt(_mm512_reduce_add_ps(squares)) * kWider;
  *left = std::sqrt(_mm512_reduce_add_ps(rest)) * kWider + kUnit * *norm;
  return scale;
}

inline float dot(const float *a, const float *b, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += kLanes)
    sum = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), sum);
  return _mm512_reduce_add_ps(sum);
}

inline float norm_of(const float *values, int64_t size) { return std::sqrt(dot(values, values, size)) * kWider; }

// Of a vector that is off by ``apart``, and whose whole numbers leave ``left`` over: how far a layer's outputs are off.
inline float after(const Layer &layer, float apart, float norm, float left) {
  const float rounding = (static_cast<float>(layer.inputs) + 4.0f) * kUnit; // of a sum, and of the steps after it
  const float all = norm + apart + left;
  return (layer.norm * (apart + left) + layer.left * all + rounding * (layer.size * all + layer.bias)) * kWider;
}

} // namespace

#pragma GCC pop_options
#endif

extern "C" {

int coded_layers_are_there() {
#if HAS_KERNEL
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return 0;
#endif
}

#if HAS_KERNEL
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

// As ``layers_of_rows``, by whole numbers: adds to ``results`` [count], and ``bounds`` [count] tells how far at most
// they are from what that function makes of the same rows. ``figures`` [layers, 4]: norm, left, size and bias of each.
// 1: no memory.
int coded_layers_of_rows(const float *rows, const float *own, int64_t count, int64_t layers, const int64_t *widths,
                         const int8_t *const *codes, const float *const *scales, const float *const *biases,
                         const float *figures, const float *last, float last_bias, float *bounds, float *results) {
  try {
    std::vector<Layer> net;
    for (int64_t l = 0; l < layers; ++l)
      net.push_back({widths[l], widths[l + 1], codes[l], scales[l], biases[l], figures[4 * l], figures[4 * l + 1],
                     figures[4 * l + 2], figures[4 * l + 3]});
    const int64_t width = widths[0], end = widths[layers];
    const int64_t widest = *std::max_element(widths, widths + layers + 1);
    std::vector<float> values(kRows * widest);
    std::vector<uint8_t> whole(kRows * widest);
    const float last_norm = norm_of(last, end);
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t first = 0; first < count; first += kRows) {
      const int64_t here = std::min<int64_t>(kRows, count - first);
      const int64_t padded = (here + kGroup - 1) / kGroup * kGroup;
      float scale[kRows], norm[kRows], left[kRows], apart[kRows] = {};
      for (int64_t row = 0; row < padded; ++row) {
        const float *from = rows + (first + std::min(row, here - 1)) * width;
        for (int64_t i = 0; i < width; i += kLanes) {
          const __m512 value = _mm512_add_ps(_mm512_loadu_ps(from + i), _mm512_loadu_ps(own + i));
          _mm512_storeu_ps(&values[row * width + i], _mm512_max_ps(value, zero));
        }
      }
      for (const Layer &layer : net) {
        for (int64_t row = 0; row < padded; ++row) {
          scale[row] = quantise(&values[row * layer.inputs], layer.inputs, &whole[row * layer.inputs], norm + row,
                                left + row);
          apart[row] = after(layer, apart[row], norm[row], left[row]);
        }
        through(whole.data(), scale, padded, layer, values.data());
      }
      for (int64_t row = 0; row < here; ++row) {
        const float *value = &values[row * end];
        const float found = dot(value, last, end) + last_bias;
        const float before = results[first + row];
        const float all = norm_of(value, end) + apart[row];
        const float rounding = (static_cast<float>(end) + 4.0f) * kUnit * (last_norm * all + std::fabs(last_bias));
        results[first + row] = before + found;
        bounds[first + row] = (last_norm * apart[row] + rounding) * kWider +
                              4.0f * kUnit * (std::fabs(before) + std::fabs(found) + last_norm * apart[row]);
      }
    }
  } catch (const std::bad_alloc &) {
    return 1;
  }
  return 0;
}

#pragma GCC pop_options
#endif
}
