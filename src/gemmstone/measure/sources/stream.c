/* The loops of STREAM (https://www.cs.virginia.edu/stream/ref.html) over arrays of any length, in float and double, and the
   random numbers that fill them. Arrays are first touched by the thread that works on them, so that on machines with several
   memories each thread finds its part in its own. Without OpenMP the pragmas mean nothing and one thread does all. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LOOP _Pragma("omp parallel for schedule(static) num_threads(threads)")

/* Numbers in [0.5, 1.5): a hash of the index (splitmix64), the same for any number of threads. */
static inline uint64_t mixed(uint64_t z)
{
    z = (z + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

#define KERNELS(T, NAME)                                                                                                    \
    void fill_##NAME(T *a, int64_t n, int64_t seed, int threads)                                                            \
    {                                                                                                                       \
        LOOP for (int64_t i = 0; i < n; i++)                                                                                \
            a[i] = (T)0.5 + (T)(mixed((uint64_t)(seed * n + i)) >> 40) * (T)(1.0 / 16777216.0);                             \
    }                                                                                                                       \
    void copy_##NAME(T *restrict c, const T *restrict a, int64_t n, int threads)                                            \
    {                                                                                                                       \
        LOOP for (int64_t i = 0; i < n; i++) c[i] = a[i];                                                                   \
    }                                                                                                                       \
    void scale_##NAME(T *restrict b, const T *restrict c, T scalar, int64_t n, int threads)                                 \
    {                                                                                                                       \
        LOOP for (int64_t i = 0; i < n; i++) b[i] = scalar * c[i];                                                          \
    }                                                                                                                       \
    void add_##NAME(T *restrict c, const T *restrict a, const T *restrict b, int64_t n, int threads)                        \
    {                                                                                                                       \
        LOOP for (int64_t i = 0; i < n; i++) c[i] = a[i] + b[i];                                                            \
    }                                                                                                                       \
    void triad_##NAME(T *restrict a, const T *restrict b, const T *restrict c, T scalar, int64_t n, int threads)            \
    {                                                                                                                       \
        LOOP for (int64_t i = 0; i < n; i++) a[i] = b[i] + scalar * c[i];                                                   \
    }

KERNELS(float, f32)
KERNELS(double, f64)

/* A copy of bytes by the C library, a slice for each thread. */
void move(char *to, const char *from, int64_t n, int threads)
{
    const int64_t slice = ((n + threads - 1) / threads + 63) & ~(int64_t)63;
    LOOP for (int64_t i = 0; i < threads; i++)
    {
        const int64_t begin = i * slice, left = n - begin;
        if (left > 0) memcpy(to + begin, from + begin, (size_t)(left < slice ? left : slice));
    }
}
