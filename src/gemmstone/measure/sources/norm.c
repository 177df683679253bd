/* The root mean square norm with the residual addition before it, as models call it: reads branch and residual once, writes the
   sum and the normed value. A row is summed in LANES partial sums, so that the compiler may use vectors without -ffast-math. */

#include <math.h>
#include <stdint.h>

#define LANES 32
#define EPSILON 1e-5

#define NORM(T, NAME)                                                                                                       \
    void norm_##NAME(T *restrict normed, T *restrict summed, const T *restrict branch, const T *restrict residual,          \
                     const T *restrict weight, int64_t rows, int64_t width, int threads)                                    \
    {                                                                                                                       \
        _Pragma("omp parallel for schedule(static) num_threads(threads)")                                                   \
        for (int64_t row = 0; row < rows; row++) {                                                                          \
            const T *a = branch + row * width, *b = residual + row * width;                                                 \
            T *out = normed + row * width, *sum = summed + row * width;                                                     \
            T squares[LANES] = {0};                                                                                         \
            int64_t i = 0;                                                                                                  \
            for (; i + LANES <= width; i += LANES)                                                                          \
                for (int lane = 0; lane < LANES; lane++) {                                                                  \
                    const T x = a[i + lane] + b[i + lane];                                                                  \
                    sum[i + lane] = x;                                                                                      \
                    squares[lane] += x * x;                                                                                 \
                }                                                                                                           \
            double total = 0.0;                                                                                             \
            for (int lane = 0; lane < LANES; lane++) total += squares[lane];                                                \
            for (; i < width; i++) {                                                                                        \
                sum[i] = a[i] + b[i];                                                                                       \
                total += (double)sum[i] * sum[i];                                                                           \
            }                                                                                                               \
            const T by = (T)(1.0 / sqrt(total / (double)width + EPSILON));                                                  \
            for (i = 0; i < width; i++) out[i] = sum[i] * by * weight[i];                                                   \
        }                                                                                                                   \
    }

NORM(float, f32)
NORM(double, f64)
