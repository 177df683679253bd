/* The triad of STREAM (https://www.cs.virginia.edu/stream/ref.html), as plain as it is printed there: what a kernel that is
 * bound by memory can be compared with. Each thread touches its part first. Without OpenMP one thread does all. */
#include <stddef.h>

void touch(double *a, double *b, double *c, ptrdiff_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (ptrdiff_t j = 0; j < n; j++) {
        a[j] = 1.0;
        b[j] = 2.0 + (double)(j % 7);
        c[j] = 0.5;
    }
}

void triad(double *restrict a, const double *restrict b, const double *restrict c, double scalar, ptrdiff_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (ptrdiff_t j = 0; j < n; j++) a[j] = b[j] + scalar * c[j];
}
