/* Multiply-adds on registers alone: no operand is loaded, so nothing but the arithmetic units can be in the way.
 *
 * Every loop keeps CHAINS sums that do not wait for each other, more than any core's units have in flight (latency times
 * number of units: 4 x 2 on x86, 4 x 4 on wide Arm cores), starts each from another number so that none can be shared, takes
 * its factors from volatile memory so that none is known beforehand, and hands back the total.
 * out: FLOP done, seconds, the mean of all sums, and what that has to be.
 */
#include <stddef.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

#define FEW 12
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 24 /* of 32 registers */
#define ALL(DO) EACH(DO) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#else
#define CHAINS FEW /* of 16 */
#define ALL(DO) EACH(DO)
#endif
#define STEPS 20000 /* between two looks at the clock: about 0.1 ms */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int vector_bytes(void) { return BYTES; }

/* Sums tend to shift / (1 - scale) = 1, whatever they started from. */
#define FLOATS(NAME, ELEMENT, SCALE)                                                           \
    typedef ELEMENT NAME##_lanes __attribute__((vector_size(BYTES)));                          \
    void NAME(double seconds, double *out) {                                                   \
        volatile ELEMENT scale = (ELEMENT)(SCALE), shift = (ELEMENT)(1.0 - (SCALE));           \
        const NAME##_lanes x = (NAME##_lanes){0} + scale, y = (NAME##_lanes){0} + shift;       \
        NAME##_lanes sum[CHAINS];                                                              \
        const double from = now();                                                             \
        double until = from, steps = 0.0, total = 0.0;                                         \
        ALL(NAME##_BEGIN)                                                                      \
        do {                                                                                   \
            for (int i = 0; i < STEPS; i++) { ALL(NAME##_STEP) }                               \
            steps += STEPS;                                                                    \
            until = now();                                                                     \
        } while (until - from < seconds);                                                      \
        ALL(NAME##_END)                                                                        \
        for (int i = 0; i < CHAINS; i++)                                                       \
            for (size_t j = 0; j < BYTES / sizeof(ELEMENT); j++) total += (double)sum[i][j];   \
        const double lanes = (double)(CHAINS * (BYTES / sizeof(ELEMENT)));                     \
        out[0] = 2.0 * steps * lanes;                                                          \
        out[1] = until - from;                                                                 \
        out[2] = total / lanes;                                                                \
        out[3] = 1.0;                                                                          \
    }

#define fp32_BEGIN(i) fp32_lanes s##i = y * (float)(i + 1);
#define fp32_STEP(i) s##i = s##i * x + y;
#define fp32_END(i) sum[i] = s##i;
FLOATS(fp32, float, 0.999)

#define fp64_BEGIN(i) fp64_lanes s##i = y * (double)(i + 1);
#define fp64_STEP(i) s##i = s##i * x + y;
#define fp64_END(i) sum[i] = s##i;
FLOATS(fp64, double, 0.999)

#if defined(__AVX512FP16__) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define fp16_BEGIN(i) fp16_lanes s##i = y * (_Float16)(i + 1);
#define fp16_STEP(i) s##i = s##i * x + y;
#define fp16_END(i) sum[i] = s##i;
FLOATS(fp16, _Float16, 0.9375) /* 15/16 and 1/16 are exact in it */
#endif

/* Dot products of pairs or quadruples of narrow numbers onto wider sums. Terms cancel or are zeros, since sums would run into
 * the end of their format: each stays at the number it started from. With more sums than these compilers put some into memory. */
#if defined(__AVX512F__) && (defined(__AVX512BF16__) || defined(__AVX512VNNI__))
#include <immintrin.h>
#define DOTS(NAME, LANES, TERMS)                                                               \
    void NAME(double seconds, double *out) {                                                   \
        volatile int first = (int)(NAME##_ONES), second = (int)(NAME##_FRACTIONS);              \
        const __m512i a = _mm512_set1_epi32(first), b = _mm512_set1_epi32(second);             \
        LANES sum[FEW];                                                                     \
        const double from = now();                                                             \
        double until = from, steps = 0.0, total = 0.0;                                         \
        EACH(NAME##_BEGIN)                                                                      \
        do {                                                                                   \
            for (int i = 0; i < STEPS; i++) { EACH(NAME##_STEP) }                               \
            steps += STEPS;                                                                    \
            until = now();                                                                     \
        } while (until - from < seconds);                                                      \
        EACH(NAME##_END)                                                                        \
        for (int i = 0; i < FEW; i++)                                                       \
            for (int j = 0; j < 16; j++) total += (double)NAME##_LANE(sum[i], j);              \
        out[0] = 2.0 * (TERMS) * steps * FEW * 16.0;                                        \
        out[1] = until - from;                                                                 \
        out[2] = total / (FEW * 16.0);                                                      \
        out[3] = 0.5 * (FEW - 1);                                                             \
    }

#if defined(__AVX512BF16__)
#define bf16_ONES 0x3f803f80      /* 1, 1 */
#define bf16_FRACTIONS 0xbf003f00 /* 1/2, -1/2 */
#define bf16_BEGIN(i) __m512 s##i = _mm512_set1_ps((float)(i));
#define bf16_STEP(i) s##i = _mm512_dpbf16_ps(s##i, (__m512bh)a, (__m512bh)b);
#define bf16_END(i) sum[i] = s##i;
#define bf16_LANE(v, j) (v)[j]
DOTS(bf16, __m512, 2)
#endif
#if defined(__AVX512VNNI__)
#define int8_ONES 0x01000001      /* 1, 0, 0, 1 */
#define int8_FRACTIONS 0x00010100 /* 0, 1, 1, 0 */
#define int8_BEGIN(i) __m512i s##i = _mm512_set1_epi32(i);
#define int8_STEP(i) s##i = _mm512_dpbusd_epi32(s##i, a, b);
#define int8_END(i) sum[i] = s##i;
typedef int int8_lanes __attribute__((vector_size(64)));
#define int8_LANE(v, j) ((int8_lanes)(v))[j]
DOTS(int8, __m512i, 4)
#endif
#endif

/* Intel's matrix units: products of tiles of 16 rows of 64 bytes, six sums that stay as above. A process has to ask Linux for
 * the tiles first (Documentation/arch/x86/xstate.rst). */
#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#define SUMS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)

int tiles_allowed(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0; }

struct shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define TILES(NAME, OPERATION, KIND, TERMS)                                                    \
    void NAME##_tiles(double seconds, double *out) {                                           \
        static const struct shapes shapes = {.palette = 1,                                     \
            .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}}; \
        volatile int first = (int)(NAME##_ONES), second = (int)(NAME##_FRACTIONS);             \
        int a[256], b[256];                                                                    \
        KIND sum[256];                                                                         \
        double steps = 0.0, total = 0.0, until;                                                \
        for (int i = 0; i < 256; i++) a[i] = first, b[i] = second;                             \
        _tile_loadconfig(&shapes);                                                             \
        _tile_loadd(6, a, 64);                                                                 \
        _tile_loadd(7, b, 64);                                                                 \
        SUMS(NAME##_LOAD)                                                                      \
        const double from = now();                                                             \
        do {                                                                                   \
            for (int i = 0; i < STEPS / 16; i++) { SUMS(OPERATION) }                           \
            steps += STEPS / 16;                                                               \
            until = now();                                                                     \
        } while (until - from < seconds);                                                      \
        SUMS(NAME##_ADD)                                                                       \
        _tile_release();                                                                       \
        out[0] = 2.0 * (TERMS) * 16.0 * 256.0 * 6.0 * steps;                                   \
        out[1] = until - from;                                                                 \
        out[2] = total / (6.0 * 256.0);                                                        \
        out[3] = 2.5;                                                                          \
    }
#define TILE_LOAD(j) for (int i = 0; i < 256; i++) sum[i] = j; _tile_loadd(j, sum, 64);
#define TILE_ADD(j) _tile_stored(j, sum, 64); for (int i = 0; i < 256; i++) total += (double)sum[i];
#define bf16_LOAD(j) TILE_LOAD(j)
#define bf16_ADD(j) TILE_ADD(j)
#define bf16_TILE(j) _tile_dpbf16ps(j, 6, 7);
TILES(bf16, bf16_TILE, float, 2)
#define int8_LOAD(j) TILE_LOAD(j)
#define int8_ADD(j) TILE_ADD(j)
#define int8_TILE(j) _tile_dpbusd(j, 6, 7);
TILES(int8, int8_TILE, int, 4)
#else
int tiles_allowed(void) { return 0; }
#endif
