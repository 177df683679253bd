/* C = A B for square matrices of floats in rows, from the loop of the textbook to one that keeps the units of a core busy.
 *
 * The first two compute rows [from, to) of C, the third its columns [from, to): a caller that goes part by part can stop between. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The definition, element by element. The inner loop walks down a column of B: a new cache line for every product. */
void naive(const float *A, const float *B, float *C, ptrdiff_t n, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t i = from; i < to; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            C[i * n + j] = 0;
            for (ptrdiff_t k = 0; k < n; k++) C[i * n + j] += A[i * n + k] * B[k * n + j];
        }
}

/* The same with the two inner loops exchanged: both walk along rows, which caches and vector units like. */
void reordered(const float *A, const float *B, float *C, ptrdiff_t n, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t i = from; i < to; i++) {
        for (ptrdiff_t j = 0; j < n; j++) C[i * n + j] = 0;
        for (ptrdiff_t k = 0; k < n; k++)
            for (ptrdiff_t j = 0; j < n; j++) C[i * n + j] += A[i * n + k] * B[k * n + j];
    }
}

/* Blocks, as Goto and van de Geijn order them ("Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008): a
 * tile of C stays in registers, a block of A in the second cache, a panel of B in the third; both are copied in the order in
 * which they are read, so that strides of a power of two do not fight for the same cache sets. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 12 /* 24 sums, two vectors of B and one of A: 27 of 32 registers */
#else
#define ROWS 6 /* 12 + 3 of 16 */
#endif
#define COLUMNS (2 * LANES)
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float lanes_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

int tile_rows(void) { return ROWS; }
int tile_columns(void) { return COLUMNS; }

/* A tile of C plus the product of a strip of A [depth][ROWS] and a strip of B [depth][COLUMNS]. */
static void tile(ptrdiff_t depth, const float *a, const float *b, float *c, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t columns) {
    lanes sum[ROWS][2];
    for (int i = 0; i < ROWS; i++) sum[i][0] = sum[i][1] = (lanes){0};
    for (ptrdiff_t k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
        const lanes left = *(const lanes *)b, right = *(const lanes *)(b + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            sum[i][0] += a[i] * left;
            sum[i][1] += a[i] * right;
        }
    }
    if (rows == ROWS && columns == COLUMNS) {
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            *(lanes_anywhere *)(c + i * n) += sum[i][0];
            *(lanes_anywhere *)(c + i * n + LANES) += sum[i][1];
        }
        return;
    }
    float edge[ROWS][COLUMNS];
    memcpy(edge, sum, sizeof edge);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) c[i * n + j] += edge[i][j];
}

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

static ptrdiff_t strips(ptrdiff_t size, ptrdiff_t width) { return (size + width - 1) / width; }

/* Strips of ROWS rows of a block of A, column after column, zeros below the last row. */
static void pack_rows(const float *A, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t depth, float *to) {
    for (ptrdiff_t s = 0; s < strips(rows, ROWS); s++)
        for (ptrdiff_t k = 0; k < depth; k++)
            for (ptrdiff_t i = 0; i < ROWS; i++, to++)
                *to = s * ROWS + i < rows ? A[(s * ROWS + i) * n + k] : 0.0f;
}

/* One strip of COLUMNS columns of a panel of B, row after row. */
static void pack_columns(const float *B, ptrdiff_t n, ptrdiff_t columns, ptrdiff_t depth, float *to) {
    for (ptrdiff_t k = 0; k < depth; k++, to += COLUMNS)
        for (ptrdiff_t j = 0; j < COLUMNS; j++) to[j] = j < columns ? B[k * n + j] : 0.0f;
}

static float *room(ptrdiff_t floats) {
    void *made = NULL;
    return posix_memalign(&made, 64, (size_t)floats * sizeof(float)) ? NULL : made;
}

/* Columns [from, to) of C, with blocks of A of `block_rows` x `depth`, by `threads` threads. Returns 0, or 1 without memory. */
int blocked(const float *A, const float *B, float *C, ptrdiff_t n, ptrdiff_t from, ptrdiff_t to, ptrdiff_t block_rows,
            ptrdiff_t depth, int threads) {
    const ptrdiff_t width = to - from, panels = strips(width, COLUMNS), blocks = strips(n, block_rows);
    float *panel = room(panels * COLUMNS * depth);
    int failed = panel == NULL;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *block = room(strips(block_rows, ROWS) * ROWS * depth);
        failed |= block == NULL;
        for (ptrdiff_t k = 0; k < n && panel; k += depth) {
            const ptrdiff_t deep = least(depth, n - k);
#pragma omp for schedule(static)
            for (ptrdiff_t s = 0; s < panels; s++) {
                const ptrdiff_t j = s * COLUMNS;
                pack_columns(B + k * n + from + j, n, least(COLUMNS, width - j), deep, panel + j * deep);
            }
#pragma omp for schedule(dynamic)
            for (ptrdiff_t m = 0; m < blocks; m++) {
                const ptrdiff_t i = m * block_rows, rows = least(block_rows, n - i);
                if (!block) continue;
                if (k == 0)
                    for (ptrdiff_t r = 0; r < rows; r++)
                        memset(C + (i + r) * n + from, 0, (size_t)width * sizeof(float));
                pack_rows(A + i * n + k, n, rows, deep, block);
                for (ptrdiff_t j = 0; j < width; j += COLUMNS)
                    for (ptrdiff_t r = 0; r < rows; r += ROWS)
                        tile(deep, block + r * deep, panel + j * deep, C + (i + r) * n + from + j, n,
                             least(ROWS, rows - r), least(COLUMNS, width - j));
            }
        }
        free(block);
    }
    free(panel);
    return failed;
}
