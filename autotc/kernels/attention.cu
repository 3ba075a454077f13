// What each key receives of softmax attention, without the M x N matrix, in two passes of one function: first the
// log-sum-exp of each query's row, then with it the sums of the columns. See attention.py for the definition.
#include "common.cuh"

#ifndef HEAD
#define HEAD 64  // head width, padded to a multiple of 16
#endif
const int ROWS = 128, COLUMNS = 64, THREADS = 128;
const int PITCH = HEAD + (DTYPE == 0 ? 4 : 8);  // of a row in shared memory: no two rows of 8 in the same banks

struct View {  // of (batch, heads, tokens, width) with a contiguous last axis
    const scalar* data;
    i64 batch, head, token;
};

// Copies `rows` tokens from `first` on into shared memory; what does not exist is zero.
DEVICE void load_tile(scalar* tile, const scalar* data, i64 stride, int first, int rows, int tokens, int width) {
    for (int at = threadIdx.x; at < rows * HEAD; at += THREADS) {
        int row = at / HEAD, column = at % HEAD;
        bool real = first + row < tokens && column < width;
        tile[row * PITCH + column] = real ? data[(i64)(first + row) * stride + column] : scalar(0);
    }
}
// The same, 16 bytes at a time: width and strides are multiples of 16 bytes and the data is aligned to them.
DEVICE void load_tile_wide(scalar* tile, const scalar* data, i64 stride, int first, int rows, int tokens, int width) {
    const int many = 16 / sizeof(scalar);
    for (int at = threadIdx.x; at < rows * (HEAD / many); at += THREADS) {
        int row = at / (HEAD / many), column = at % (HEAD / many) * many;
        uint4 chunk = {0, 0, 0, 0};
        if (first + row < tokens && column < width)
            chunk = *(const uint4*)(data + (i64)(first + row) * stride + column);
        *(uint4*)(tile + row * PITCH + column) = chunk;
    }
}

// Scores of this warp's 32 rows with 32 columns: score[m][c][i] as mma.m16n8k16 spreads a 16 x 8 tile over a warp:
// row m * 16 + lane / 4 + i / 2 * 8, column c * 8 + lane % 4 * 2 + i % 2.
#if DTYPE == 0
struct Fragments {};
DEVICE void load_fragments(Fragments&, const scalar*) {}
DEVICE void scores(float (&score)[2][4][4], const Fragments&, const scalar* rows, const scalar* columns) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float* a = rows + (m * 16 + lane() / 4 + i / 2 * 8) * PITCH;
                const float* b = columns + (c * 8 + lane() % 4 * 2 + i % 2) * PITCH;
                float sum = 0;
#pragma unroll 4
                for (int d = 0; d < HEAD; d++) sum += a[d] * b[d];
                score[m][c][i] = sum;
            }
}
#else
struct Fragments {
    u32 part[HEAD / 16][2][4];
};
DEVICE void load_fragments(Fragments& held, const scalar* rows) {
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++)
#pragma unroll
        for (int m = 0; m < 2; m++)
            load_matrices(held.part[d][m], rows + (m * 16 + lane() % 16) * PITCH + d * 16 + lane() / 16 * 8);
}
DEVICE void scores(float (&score)[2][4][4], const Fragments& held, const scalar*, const scalar* columns) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) score[m][c][i] = 0;
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++)
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            u32 b[4];  // two 8-column tiles, each in two halves of the 16 numbers
            load_matrices(b, columns + (pair * 16 + lane() / 16 * 8 + lane() % 8) * PITCH + d * 16 +
                                 lane() / 8 % 2 * 8);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                multiply_add(score[m][pair * 2], held.part[d][m], b[0], b[1]);
                multiply_add(score[m][pair * 2 + 1], held.part[d][m], b[2], b[3]);
            }
        }
}
#endif

// One pass over all columns for ROWS rows of one head. With x = scale * <row, column> + bias[column], all in base 2:
// LOG: out[row] = log2 of the sum of 2^x, +infinity where nothing is seen; else out[row] = the sum of 2^x.
template <bool LOG, class Bias, class Out>
DEVICE void pass(const View& rows, const View& columns, int b, int h, int many_rows, int many_columns, int width,
                 float scale, int wide, Bias bias, Out out) {
    scalar* row_tile = (scalar*)shared_pool();
    scalar* column_tile = row_tile + ROWS * PITCH;
    float* biases = (float*)(column_tile + COLUMNS * PITCH);
    const scalar* row_data = rows.data + b * rows.batch + h * rows.head;
    const scalar* column_data = columns.data + b * columns.batch + h * columns.head;
    int first = blockIdx.x * ROWS;
    auto load = [&](scalar* tile, const scalar* data, i64 stride, int from, int count, int tokens) {
        if (wide)
            load_tile_wide(tile, data, stride, from, count, tokens, width);
        else
            load_tile(tile, data, stride, from, count, tokens, width);
    };
    load(row_tile, row_data, rows.token, first, ROWS, many_rows);
    __syncthreads();
    const scalar* mine = row_tile + warp() * 32 * PITCH;
    Fragments held;
    load_fragments(held, mine);
    const float low = -1e30f;
    float peak[2][2] = {{low, low}, {low, low}}, sum[2][2] = {{0, 0}, {0, 0}};
    for (int start = 0; start < many_columns; start += COLUMNS) {
        __syncthreads();
        load(column_tile, column_data, columns.token, start, COLUMNS, many_columns);
        for (int c = threadIdx.x; c < COLUMNS; c += THREADS) biases[c] = bias(start + c);
        __syncthreads();
#pragma unroll
        for (int half = 0; half < COLUMNS; half += 32) {
            float score[2][4][4];
            scores(score, held, mine, column_tile + half * PITCH);
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float x[8], top = peak[m][r];
#pragma unroll
                    for (int c = 0; c < 8; c++) {
                        x[c] = score[m][c / 2][r * 2 + c % 2] * scale +
                               biases[half + c / 2 * 8 + lane() % 4 * 2 + c % 2];
                        if (LOG) top = fmaxf(top, x[c]);
                    }
                    if (LOG) {
                        sum[m][r] *= exp2_fast(peak[m][r] - top);
                        peak[m][r] = top;
                    }
#pragma unroll
                    for (int c = 0; c < 8; c++) sum[m][r] += exp2_fast(LOG ? x[c] - top : x[c]);
                }
        }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            for (int distance = 1; distance < 4; distance *= 2) {  // the four lanes that share a row
                float others = warp_swap(sum[m][r], distance);
                if (LOG) {
                    float theirs = warp_swap(peak[m][r], distance), top = fmaxf(peak[m][r], theirs);
                    sum[m][r] *= exp2_fast(peak[m][r] - top);
                    others *= exp2_fast(theirs - top);
                    peak[m][r] = top;
                }
                sum[m][r] += others;
            }
            int row = first + warp() * 32 + m * 16 + lane() / 4 + r * 8;
            if (row < many_rows && lane() % 4 == 0) {
                float infinity = __uint_as_float(0x7f800000u);
                out(row, !LOG ? sum[m][r] : sum[m][r] > 0 ? peak[m][r] + log2f(sum[m][r]) : infinity);
            }
        }
}

// log_sum (B, H, M): of each query over the valid keys. Grid (M / ROWS, H, B).
KERNEL row_log_sums(const scalar* q, i64 qb, i64 qh, i64 qt, const scalar* k, i64 kb, i64 kh, i64 kt,
                    const u8* valid, float* log_sum, int m, int n, int width, float scale, int wide) {
    int b = blockIdx.z, h = blockIdx.y;
    float* mine = log_sum + ((i64)b * gridDim.y + h) * m;
    pass<true>(
        View{q, qb, qh, qt}, View{k, kb, kh, kt}, b, h, m, n, width, scale, wide,
        [&](int key) {
            bool seen = key < n && (!valid || valid[(i64)b * n + key]);
            return seen ? 0.0f : __uint_as_float(0xff800000u);
        },
        [&](int row, float value) { mine[row] = value; });
}

// received (B, H, N): the mean over the valid queries; 0 where a key is not valid. Grid (N / ROWS, H, B).
KERNEL received(const scalar* q, i64 qb, i64 qh, i64 qt, const scalar* k, i64 kb, i64 kh, i64 kt, const u8* valid,
                const float* log_sum, const float* queries, float* out, int m, int n, int width, float scale,
                int wide) {
    int b = blockIdx.z, h = blockIdx.y;
    const float* sums = log_sum + ((i64)b * gridDim.y + h) * m;
    float* mine = out + ((i64)b * gridDim.y + h) * n;
    pass<false>(
        View{k, kb, kh, kt}, View{q, qb, qh, qt}, b, h, n, m, width, scale, wide,
        [&](int query) {
            bool counts = query < m && (!valid || valid[(i64)b * m + query]);
            return counts ? -sums[query] : __uint_as_float(0xff800000u);
        },
        [&](int row, float value) {
            mine[row] = !valid || valid[(i64)b * n + row] ? value / queries[b] : 0.0f;
        });
}
