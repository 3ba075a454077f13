// Density peaks on some rows of the distance matrix at a time. See density.py for the definition.
#include "common.cuh"

const int TILE = 64, DEPTH = 16, PITCH = TILE + 4;

// squared[b, i, j] = |x[b, first + i] - x[b, j]|^2 / width for i < rows. Blocks of 256 threads, each a 64 x 64 tile;
// every thread has 4 x 4 pairs. Differences, not dot products: near points keep all their digits.
KERNEL squared_distances(const scalar* x, float* squared, int first, int rows, int n, int width) {
    float* left = (float*)shared_pool();
    float* right = left + DEPTH * PITCH;
    i64 b = blockIdx.z;
    int i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    x += b * n * width;
    float sums[4][4] = {};
    for (int d0 = 0; d0 < width; d0 += DEPTH) {
        for (int at = threadIdx.x; at < TILE * DEPTH; at += blockDim.x) {
            int row = at / DEPTH, d = at % DEPTH;
            bool inside = d0 + d < width;
            int i = first + i0 + row, j = j0 + row;
            left[d * PITCH + row] = inside && i0 + row < rows ? widen(x[(i64)i * width + d0 + d]) : 0.0f;
            right[d * PITCH + row] = inside && j < n ? widen(x[(i64)j * width + d0 + d]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float a[4], c[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = left[d * PITCH + ty * 4 + i], c[i] = right[d * PITCH + tx * 4 + i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float apart = a[i] - c[j];
                    sums[i][j] += apart * apart;
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = i0 + ty * 4 + i, column = j0 + tx * 4 + j;
            if (row < rows && column < n) squared[(b * rows + row) * n + column] = sums[i][j] / width;
        }
}

// mean[b, first + i] = the mean of the count[b] smallest squared[b, i, j] over real j. One block a row: the
// count-th smallest is found digit by digit (8 bits at a time) on the keys, then what lies below it is added up.
// Shared memory: 256 counts, 32 doubles.
KERNEL nearest_mean(const float* squared, const u8* valid, const i64* count, float* mean, int first, int rows, int n) {
    double* slots = (double*)shared_pool();
    u32* histogram = (u32*)(slots + 32);
    i64 b = blockIdx.y;
    int row = blockIdx.x;
    const float* mine = squared + (b * rows + row) * n;
    const u8* real = valid + b * n;
    if (!real[first + row]) return;
    u32 prefix = 0, left = (u32)count[b];
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) histogram[bin] = 0;
        __syncthreads();
        for (int j = threadIdx.x; j < n; j += blockDim.x) {
            u32 key = key_of(mine[j]);
            bool same = shift == 24 || key >> (shift + 8) == prefix;
            if (real[j] && same) atomicAdd(histogram + (key >> shift & 255), 1u);
        }
        __syncthreads();
        u32 bin = 0;
        while (bin < 255 && histogram[bin] < left) left -= histogram[bin++];  // every thread the same walk
        prefix = prefix << 8 | bin;
        __syncthreads();
    }
    double sum = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x)
        if (real[j] && key_of(mine[j]) < prefix) sum += mine[j];
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) mean[b * n + first + row] = (float)((sum + left * (double)value_of(prefix)) / count[b]);
}

// For row first + i: the smallest squared[b, i, j] over real j that are denser (infinity: none), and the largest over
// all real j. Shared memory: 2 x 66 slots.
KERNEL denser_gap(const float* squared, const u8* valid, const float* density, float* gap, float* widest, int first,
                  int rows, int n) {
    u32* slots = (u32*)shared_pool();
    i64 b = blockIdx.y;
    int row = blockIdx.x;
    const float* mine = squared + (b * rows + row) * n;
    i64 at = b * n + first + row;
    if (!valid[at]) return;
    float own = density[at];
    u32 near = 0xffffffffu, far = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        if (!valid[b * n + j]) continue;
        u32 key = key_of(mine[j]);
        if (density[b * n + j] > own && key < near) near = key;
        if (key > far) far = key;
    }
    near = ~cluster_top(~near, 0, slots).key;
    far = cluster_top(far, 0, slots + 66).key;
    if (threadIdx.x == 0) {
        gap[at] = near == 0xffffffffu ? __uint_as_float(0x7f800000u) : value_of(near);
        widest[at] = value_of(far);
    }
}
