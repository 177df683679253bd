/* Softmax over rows of floats, four ways (arXiv:2001.04438; the last one arXiv:1805.02867), of the same vector code:

   recompute  maximum; sum of exponentials; exponentials again, scaled           reads 3, writes 1
   reload     maximum; exponentials stored and summed; what was stored, scaled   reads 3, writes 2
   two_pass   sum of (mantissa, exponent) pairs, which cannot overflow; scaled   reads 2, writes 1
   online     maximum and sum together, rescaled at a new maximum; scaled        reads 2, writes 1

   e^x = p(t) 2^n with n = round(x log2 e) and t = x - n ln 2 in two parts (Cody and Waite); p is of degree 5. Its coefficients
   C0..C5 and LOG2E, LN2_HI, LN2_LO come from the caller. A row with a NaN, with +inf or of -inf alone is NaN throughout. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
typedef __m512 vec;
static inline vec all(float x) { return _mm512_set1_ps(x); }
static inline vec load(const float *p) { return _mm512_loadu_ps(p); }
static inline void store(float *p, vec x) { _mm512_storeu_ps(p, x); }
static inline vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec larger(vec a, vec b) { return _mm512_max_ps(a, b); } /* b where one is NaN */
static inline vec nearest(vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec times_power(vec p, vec n) { return _mm512_scalef_ps(p, n); } /* p 2^n, n <= 0 */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
typedef __m256 vec;
static inline vec all(float x) { return _mm256_set1_ps(x); }
static inline vec load(const float *p) { return _mm256_loadu_ps(p); }
static inline void store(float *p, vec x) { _mm256_storeu_ps(p, x); }
static inline vec fma_(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec nearest(vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec times_power(vec p, vec n)
{
    /* below 2^-126 it is zero; adding 1.5 2^23 leaves the integer in the low bits of the mantissa */
    const vec shifted = _mm256_add_ps(_mm256_max_ps(n, all(-127.0f)), all(12582912.0f + 127.0f));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
#else
#define LANES 4
typedef float vec __attribute__((vector_size(16), may_alias));
typedef int32_t ints __attribute__((vector_size(16)));
typedef double wide __attribute__((vector_size(32)));
static inline vec all(float x) { return (vec){x, x, x, x}; }
static inline vec load(const float *p)
{
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline void store(float *p, vec x) { memcpy(p, &x, sizeof x); }
static inline vec fma_(vec a, vec b, vec c) { return a * b + c; }
static inline vec larger(vec a, vec b)
{
    const ints first = (ints)(a > b);
    return (vec)((first & (ints)a) | (~first & (ints)b));
}
static inline vec nearest(vec x) { return (x + all(12582912.0f)) - all(12582912.0f); } /* below 2^22 */
static inline vec times_power(vec p, vec n)
{
    const vec shifted = larger(n, all(-127.0f)) + all(12582912.0f + 127.0f);
    return p * (vec)((ints)shifted << 23);
}
/* without a fused multiply-add the products would be rounded before they are taken away */
static inline vec reduced(vec x, vec n)
{
    const wide t = __builtin_convertvector(x, wide) - __builtin_convertvector(n, wide) * ((double)LN2_HI + (double)LN2_LO);
    return __builtin_convertvector(t, vec);
}
#endif
#if LANES > 4
static inline vec reduced(vec x, vec n) { return fma_(n, all(-LN2_LO), fma_(n, all(-LN2_HI), x)); } /* x - n ln 2 */
#endif

#define UNROLL 4
#define BLOCK (UNROLL * LANES)
#define FAR 1e5f      /* n and t of Cody and Waite are exact to there; rows beyond go the way of three passes */
#define VANISHES -120.0f /* e^x below is zero beside 1 in a float */

static inline vec polynomial(vec t, const vec *c)
{
    return fma_(fma_(fma_(fma_(fma_(c[5], t, c[4]), t, c[3]), t, c[2]), t, c[1]), t, c[0]);
}

/* e^x = (return) 2^n; c: the coefficients, times whatever the exponential is to be scaled by */
static inline vec parts(vec x, vec *n, const vec *c)
{
    *n = nearest(x * all(LOG2E));
    return polynomial(reduced(x, *n), c);
}

static inline vec exponential(vec x, const vec *c) /* of x <= 0 */
{
    vec n;
    const vec p = parts(larger(all(VANISHES), x), &n, c);
    return times_power(p, n);
}

static inline void coefficients(vec *c, float scale)
{
    const float values[6] = {C0, C1, C2, C3, C4, C5};
    for (int i = 0; i < 6; i++) c[i] = all(values[i] * scale);
}

static inline float largest(vec x)
{
    float lanes[LANES], at_most = -INFINITY;
    store(lanes, x);
    for (int i = 0; i < LANES; i++) at_most = lanes[i] > at_most ? lanes[i] : at_most;
    return at_most;
}

static inline double total(vec x)
{
    float lanes[LANES];
    double sum = 0.0;
    store(lanes, x);
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

/* The last elements of a row that fill no block, with -inf behind them, which changes no maximum and no sum. */
static inline const float *padded(float *block, const float *x, int64_t count)
{
    for (int i = 0; i < BLOCK; i++) block[i] = i < count ? x[i] : -INFINITY;
    return block;
}

/* Elements that passes read and wrote, in a library compiled with -DCOUNTED: all that touches rows goes through READ and WRITE. */
#ifdef COUNTED
static int64_t counts[2];
#define COUNT(which, n) __atomic_fetch_add(&counts[which], n, __ATOMIC_RELAXED)
int64_t counted(int which) { return __atomic_exchange_n(&counts[which], 0, __ATOMIC_RELAXED); }
#else
#define COUNT(which, n) ((void)0)
#endif

/* Runs what is given over all blocks of x (and y, where something is written), the incomplete last one through a buffer. */
#define READ(...)                                                                                                           \
    COUNT(0, n);                                                                                                            \
    for (int64_t i = 0; i < n; i += BLOCK) {                                                                                \
        float rest[BLOCK];                                                                                                  \
        const float *at = i + BLOCK <= n ? x + i : padded(rest, x + i, n - i);                                              \
        __VA_ARGS__                                                                                                         \
    }
#define WRITE(...)                                                                                                          \
    COUNT(0, n), COUNT(1, n);                                                                                               \
    for (int64_t i = 0; i < n; i += BLOCK) {                                                                                \
        float rest[BLOCK], done[BLOCK];                                                                                     \
        const int whole = i + BLOCK <= n;                                                                                   \
        const float *at = whole ? x + i : padded(rest, x + i, n - i);                                                       \
        float *to = whole ? y + i : done;                                                                                   \
        __VA_ARGS__                                                                                                         \
        if (!whole)                                                                                                         \
            for (int64_t j = i; j < n; j++) y[j] = done[j - i];                                                             \
    }

typedef struct {
    double sum;     /* of e^(x - reference), or of mantissas of which the sum is sum 2^reference */
    float reference; /* the maximum, or the exponent */
} part;

static part maximum(const float *x, int64_t n)
{
    vec best[UNROLL];
    for (int u = 0; u < UNROLL; u++) best[u] = all(-INFINITY);
    READ(for (int u = 0; u < UNROLL; u++) best[u] = larger(best[u], load(at + u * LANES));)
    return (part){0.0, largest(larger(larger(best[0], best[1]), larger(best[2], best[3])))};
}

/* Sums of floats grow over at most SPAN blocks before they go into a double: longer ones would lose digits. */
#define SPAN 1024

static double sum_of(const float *x, int64_t n, float reference)
{
    vec c[6], sum[UNROLL], from = all(reference);
    double sums = 0.0;
    coefficients(c, 1.0f);
    for (int u = 0; u < UNROLL; u++) sum[u] = all(0.0f);
    READ(for (int u = 0; u < UNROLL; u++) sum[u] += exponential(load(at + u * LANES) - from, c);
         if (i / BLOCK % SPAN == SPAN - 1 || i + BLOCK >= n) {
             sums += total((sum[0] + sum[1]) + (sum[2] + sum[3]));
             for (int u = 0; u < UNROLL; u++) sum[u] = all(0.0f);
         })
    return sums;
}

static double sum_and_store(const float *x, float *y, int64_t n, float reference)
{
    vec c[6], sum[UNROLL], from = all(reference);
    double sums = 0.0;
    coefficients(c, 1.0f);
    for (int u = 0; u < UNROLL; u++) sum[u] = all(0.0f);
    WRITE(for (int u = 0; u < UNROLL; u++) {
              const vec e = exponential(load(at + u * LANES) - from, c);
              store(to + u * LANES, e);
              sum[u] += e;
          }
          if (i / BLOCK % SPAN == SPAN - 1 || i + BLOCK >= n) {
              sums += total((sum[0] + sum[1]) + (sum[2] + sum[3]));
              for (int u = 0; u < UNROLL; u++) sum[u] = all(0.0f);
          })
    return sums;
}

static void exponentials(const float *x, float *y, int64_t n, part of)
{
    vec c[6], from = all(of.reference);
    coefficients(c, (float)(1.0 / of.sum));
    WRITE(for (int u = 0; u < UNROLL; u++) store(to + u * LANES, exponential(load(at + u * LANES) - from, c));)
}

static void scaled(float *y, int64_t n, part of)
{
    const vec by = all((float)(1.0 / of.sum));
    const float *x = y;
    WRITE(for (int u = 0; u < UNROLL; u++) store(to + u * LANES, load(at + u * LANES) * by);)
}

static part merged(part a, part b, int base_two)
{
    const part high = b.reference > a.reference ? b : a, low = b.reference > a.reference ? a : b;
    const double down = (double)low.reference - high.reference;
    const double by = low.sum == 0.0 ? 0.0 : base_two ? exp2(down) : exp(down);
    return (part){high.sum + low.sum * by, high.reference};
}

static part of_lanes(vec sum, vec reference, int base_two)
{
    float sums[LANES], references[LANES];
    store(sums, sum);
    store(references, reference);
    part whole = {sums[0], references[0]};
    for (int i = 1; i < LANES; i++) whole = merged(whole, (part){sums[i], references[i]}, base_two);
    return whole;
}

static part pairs(const float *x, int64_t n)
{
    vec c[6], sum = all(0.0f), exponent = all(-FAR * 2.0f);
    part whole = {0.0, -FAR * 2.0f};
    coefficients(c, 1.0f);
    READ(vec m[UNROLL], e[UNROLL];
         for (int u = 0; u < UNROLL; u++) m[u] = parts(larger(all(-FAR), load(at + u * LANES)), &e[u], c);
         const vec highest = larger(exponent, larger(larger(e[0], e[1]), larger(e[2], e[3])));
         sum = times_power(sum, exponent - highest);
         for (int u = 0; u < UNROLL; u++) m[u] = times_power(m[u], e[u] - highest);
         sum += (m[0] + m[1]) + (m[2] + m[3]);
         exponent = highest;
         if (i / BLOCK % SPAN == SPAN - 1 || i + BLOCK >= n) {
             whole = merged(whole, of_lanes(sum, exponent, 1), 1);
             sum = all(0.0f);
         })
    return whole;
}

static void from_pairs(const float *x, float *y, int64_t n, part of)
{
    vec c[6], from = all(of.reference);
    coefficients(c, (float)(1.0 / of.sum));
    WRITE(for (int u = 0; u < UNROLL; u++) {
        vec e;
        const vec m = parts(larger(all(-FAR), load(at + u * LANES)), &e, c);
        store(to + u * LANES, times_power(m, e - from));
    })
}

static part maximum_and_sum(const float *x, int64_t n)
{
    vec c[6], sum = all(0.0f), reference = all(-FLT_MAX);
    part whole = {0.0, -FLT_MAX};
    coefficients(c, 1.0f);
    READ(vec v[UNROLL];
         for (int u = 0; u < UNROLL; u++) v[u] = load(at + u * LANES);
         const vec highest = larger(reference, larger(larger(v[0], v[1]), larger(v[2], v[3])));
         sum = sum * exponential(reference - highest, c);
         for (int u = 0; u < UNROLL; u++) v[u] = exponential(v[u] - highest, c);
         sum += (v[0] + v[1]) + (v[2] + v[3]);
         reference = highest;
         if (i / BLOCK % SPAN == SPAN - 1 || i + BLOCK >= n) {
             whole = merged(whole, of_lanes(sum, reference, 0), 0);
             sum = all(0.0f);
         })
    return whole;
}

enum { RECOMPUTE, RELOAD, TWO_PASS, ONLINE };

static part first(int how, const float *x, int64_t n)
{
    return how == TWO_PASS ? pairs(x, n) : how == ONLINE ? maximum_and_sum(x, n) : maximum(x, n);
}

/* The sum of exponentials in passes of their own: what three passes do second and two passes do not. */
static double second(int how, const float *x, float *y, int64_t n, float reference)
{
    return how == RELOAD ? sum_and_store(x, y, n, reference) : sum_of(x, n, reference);
}

static void last(int how, const float *x, float *y, int64_t n, part of)
{
    if (how == TWO_PASS)
        from_pairs(x, y, n, of);
    else if (how == RELOAD)
        scaled(y, n, of);
    else
        exponentials(x, y, n, of);
}

static int is_far(part of)
{
    const float limit = FAR * LOG2E;
    return of.reference > limit || of.reference < -limit + 256.0f;
}

static void whole_row(int how, const float *x, float *y, int64_t n)
{
    part of = first(how, x, n);
    if (how == TWO_PASS && is_far(of)) {
        how = RECOMPUTE;
        of = first(how, x, n);
    }
    if (how == RECOMPUTE || how == RELOAD) of.sum = second(how, x, y, n, of.reference);
    last(how, x, y, n, of);
}

/* One row shared by all threads: each has a slice, and they meet after every pass. */
static void shared_row(int how, const float *x, float *y, int64_t n, int threads, part *parts_)
{
    const int64_t slice = ((n + threads - 1) / threads + BLOCK - 1) / BLOCK * BLOCK;
#define SLICES _Pragma("omp parallel for schedule(static, 1) num_threads(threads)") for (int i = 0; i < threads; i++)
#define BEGIN (i * slice < n ? i * slice : n)
#define LENGTH ((n - BEGIN) < slice ? (n - BEGIN) : slice)
    part of;
again:
    SLICES parts_[i] = LENGTH ? first(how, x + BEGIN, LENGTH) : (part){0.0, -INFINITY};
    of = parts_[0];
    if (how == RECOMPUTE || how == RELOAD) {
        for (int i = 1; i < threads; i++)
            if (parts_[i].reference > of.reference) of = parts_[i];
        SLICES parts_[i].sum = second(how, x + BEGIN, y + BEGIN, LENGTH, of.reference);
        of.sum = 0.0;
        for (int i = 0; i < threads; i++) of.sum += parts_[i].sum;
    } else {
        for (int i = 1; i < threads; i++) of = merged(of, parts_[i], how == TWO_PASS);
        if (how == TWO_PASS && is_far(of)) {
            how = RECOMPUTE;
            goto again;
        }
    }
    SLICES last(how, x + BEGIN, y + BEGIN, LENGTH, of);
}

/* Zero when done, one when there was no memory for the threads' sums. */
int softmax(int how, const float *x, float *y, int64_t rows, int64_t width, int threads)
{
    if (rows >= threads) {
        _Pragma("omp parallel for schedule(static) num_threads(threads)")
        for (int64_t row = 0; row < rows; row++) whole_row(how, x + row * width, y + row * width, width);
        return 0;
    }
    part *parts_ = malloc((size_t)threads * sizeof(part));
    if (!parts_) return 1;
    for (int64_t row = 0; row < rows; row++) shared_row(how, x + row * width, y + row * width, width, threads, parts_);
    free(parts_);
    return 0;
}

int lanes(void) { return LANES; }
