// Greedy selections, the whole loop in one launch: one cluster of blocks a sequence. See greedy.py for what they do.
#include "common.cuh"

// nearest[b, j] = the smallest distance[b, i, j] over real i other than j (infinity where there is none).
// Each block 32 columns, its warps taking turns with the rows.
KERNEL nearest_other(const float* distance, const u8* valid, float* nearest, int n) {
    float* least = (float*)shared_pool();
    i64 b = blockIdx.y;
    int j = blockIdx.x * 32 + lane(), part = warp(), parts = blockDim.x / 32;
    float low = __uint_as_float(0x7f800000u);
    if (j < n)
        for (int i = part; i < n; i += parts)
            if (i != j && valid[b * n + i]) low = fminf(low, distance[(b * n + i) * n + j]);
    least[threadIdx.x] = low;
    __syncthreads();
    if (part == 0 && j < n) {
        for (int p = 1; p < parts; p++) low = fminf(low, least[p * 32 + threadIdx.x]);
        nearest[b * n + j] = low;
    }
}

// Max-min. Shared memory: 2 x 66 slots, then a key a token, 0 where it may not be picked.
KERNEL max_min(const float* distance, const i64* count, const u8* valid, const i64* start, i64* picks, int n,
               int most) {
    u32* slots = (u32*)shared_pool();
    u32* least = slots + 132;
    i64 b = blockIdx.x;
    int wanted = (int)count[b];
    if (wanted == 0) return;
    u32 best = (u32)start[b];
    const float* row = distance + (b * n + best) * n;
    for (int j = threadIdx.x; j < n; j += blockDim.x)
        least[j] = valid[b * n + j] && j != best ? key_of(row[j]) : 0;
    if (threadIdx.x == 0) picks[b * most] = best;
    for (int step = 1; step < wanted; step++) {
        // a thread reads and writes the keys of its own tokens only
        u32 key = 0, index = 0xffffffffu;
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            if (least[j] > key) key = least[j], index = j;
        best = cluster_top(key, index, slots + step % 2 * 66).index;
        if (threadIdx.x == 0) picks[b * most + step] = best;
        row = distance + (b * n + best) * n;
#pragma unroll 4
        for (int j = threadIdx.x; j < n; j += blockDim.x) {
            u32 other = key_of(row[j]);
            least[j] = j == best ? 0 : other < least[j] ? other : least[j];
        }
    }
}

const int GROUPS = 8;  // of 32 columns that a pass over a list of rows sums up at once

// For each column of [first, last): the sum of term(row number in the list, column) over `rows` rows of a list, warps
// taking turns; then finish(column, sum) in one thread. `partial` is 32 x GROUPS x 32 numbers of shared memory.
template <class T, class Term, class Finish>
DEVICE void column_sums(int rows, int first, int last, T* partial, Term term, Finish finish) {
    int warps = blockDim.x / 32;
    for (int base = first; base < last; base += GROUPS * 32) {
        T sums[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; g++) sums[g] = 0;
        for (int r = warp(); r < rows; r += warps) {
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                int column = base + g * 32 + lane();
                if (column < last) sums[g] += term(r, column);
            }
        }
#pragma unroll
        for (int g = 0; g < GROUPS; g++) partial[(warp() * GROUPS + g) * 32 + lane()] = sums[g];
        __syncthreads();
        for (int c = threadIdx.x; c < GROUPS * 32 && base + c < last; c += blockDim.x) {
            T sum = 0;
            for (int w = 0; w < warps; w++) sum += partial[w * GROUPS * 32 + c];
            finish(base + c, sum);
        }
        __syncthreads();
    }
}

DEVICE void my_columns(int n, int* first, int* last) {
    int share = (n + CLUSTER - 1) / CLUSTER;
    *first = min(n, (int)cluster_rank() * share);
    *last = min(n, *first + share);
}

// The key a column is picked by; 0 where it may not be.
DEVICE u32 gain_key(double gain, i64 at, const u8* open, const float* weight, const float* add) {
    float score = (float)gain;
    if (weight) score *= weight[at];
    if (add) score += add[at];
    return open[at] ? key_of(score) : 0;
}

// Coverage. gain[b, j] starts as the sum of the positive similarities of column j, and then only what a pick changes is
// taken off, in double. `covered` (B, CLUSTER, M) starts at 0; `weight` and `add` may be null; `open` is overwritten.
// Shared memory: 32 * GROUPS * 32 doubles, blockDim.x rows with their old and new cover, 2 x 66 slots, 32 counts.
KERNEL cover(const float* similarity, const i64* count, u8* open, const float* weight, const float* add,
             double* gain, float* covered, i64* picks, int m, int n, int most) {
    double* partial = (double*)shared_pool();
    u32* rows = (u32*)(partial + 32 * GROUPS * 32);
    float* was = (float*)(rows + blockDim.x);
    float* now = was + blockDim.x;
    u32* slots = (u32*)(now + blockDim.x);
    u32* counts = slots + 132;
    i64 b = blockIdx.x / CLUSTER;
    similarity += b * m * n;
    covered += (b * CLUSTER + cluster_rank()) * m;
    int first, last, wanted = (int)count[b];
    my_columns(n, &first, &last);
    for (int step = 0; step < wanted; step++) {
        u32 key = 0, index = 0xffffffffu;
        for (int j = first + threadIdx.x; j < last; j += blockDim.x) {
            u32 other = gain_key(gain[b * n + j], b * n + j, open, weight, add);
            if (other > key) key = other, index = j;
        }
        u32 best = cluster_top(key, index, slots + step % 2 * 66).index;
        if (threadIdx.x == 0 && cluster_rank() == 0) picks[b * most + step] = best;
        if ((int)best >= first && (int)best < last && threadIdx.x == 0) open[b * n + best] = 0;
        for (int base = 0; base < m; base += blockDim.x) {
            int i = base + threadIdx.x;
            float old = i < m ? covered[i] : 0, fresher = i < m ? similarity[(i64)i * n + best] : 0;
            bool changed = i < m && fresher > old;
            u32 votes = warp_ballot(changed);
            if (lane() == 0) counts[warp()] = __popc(votes);
            __syncthreads();
            int place = __popc(votes & ((1u << lane()) - 1)), found = 0;
            for (int w = 0; w < (int)blockDim.x / 32; w++) {
                if (w < (int)warp()) place += counts[w];
                found += counts[w];
            }
            if (changed) {
                rows[place] = i, was[place] = old, now[place] = fresher;
                covered[i] = fresher;
            }
            __syncthreads();
            if (found == 0) continue;
            column_sums(
                found, first, last, partial,
                [&](int r, int column) {
                    float s = similarity[(i64)rows[r] * n + column];
                    return (double)fmaxf(s - was[r], 0.0f) - (double)fmaxf(s - now[r], 0.0f);
                },
                [&](int column, double sum) { gain[b * n + column] -= sum; });
        }
        __syncthreads();
    }
    cluster_sync();  // no block may end while another one reads its shared memory
}

// Sums of the positive part of each column, in double. Each block 32 columns, as above.
KERNEL positive_sums(const float* matrix, double* sums, int m, int n) {
    double* partial = (double*)shared_pool();
    i64 b = blockIdx.y;
    int j = blockIdx.x * 32 + lane(), part = warp(), parts = blockDim.x / 32;
    double sum = 0;
    if (j < n)
        for (int i = part; i < m; i += parts) sum += fmaxf(matrix[(b * m + i) * n + j], 0.0f);
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (part == 0 && j < n) {
        for (int p = 1; p < parts; p++) sum += partial[p * 32 + threadIdx.x];
        sums[b * n + j] = sum;
    }
}

// MAP of a determinantal point process. `residual` (B, N) starts as the diagonal, `basis` is (B, most, N), `open` is
// overwritten. Shared memory: 32 * GROUPS * 32 floats, 2 x 66 slots, `most` numbers of the chosen column.
KERNEL volume(const float* matrix, const i64* count, u8* open, float* residual, float* basis, i64* picks, int n,
              int most) {
    float* partial = (float*)shared_pool();
    u32* slots = (u32*)(partial + 32 * GROUPS * 32);
    float* known = (float*)(slots + 132);
    i64 b = blockIdx.x / CLUSTER;
    matrix += b * n * n;
    basis += b * most * n;
    int first, last, wanted = (int)count[b];
    my_columns(n, &first, &last);
    for (int step = 0; step < wanted; step++) {
        u32 key = 0, index = 0xffffffffu;
        for (int j = first + threadIdx.x; j < last; j += blockDim.x) {
            u32 other = open[b * n + j] ? key_of(residual[b * n + j]) : 0;
            if (other > key) key = other, index = j;
        }
        Top top = cluster_top(key, index, slots + step % 2 * 66);
        float pivot = value_of(top.key);
        int best = (int)top.index;
        if (threadIdx.x == 0 && cluster_rank() == 0) picks[b * most + step] = best;
        if (best >= first && best < last && threadIdx.x == 0) open[b * n + best] = 0;
        for (int s = threadIdx.x; s < step; s += blockDim.x) known[s] = fresh(basis + (i64)s * n + best);
        __syncthreads();
        const float tiny = 1.17549435e-38f;
        column_sums(
            step, first, last, partial,
            [&](int s, int column) { return known[s] * basis[(i64)s * n + column]; },
            [&](int column, float sum) {
                float row = pivot > 0 ? (matrix[(i64)best * n + column] - sum) / sqrtf(fmaxf(pivot, tiny)) : 0;
                basis[(i64)step * n + column] = row;
                residual[b * n + column] -= row * row;
            });
    }
    cluster_sync();  // no block may end while another one reads its shared memory
}
