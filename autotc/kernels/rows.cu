// Rows gathered or summed: what a decision does to hidden states, rotary tables and the KV cache. See rows.py.
#include "common.cuh"

const int TOGETHER = 4;  // rows that a block of `gather_rows` moves at a time, so that loads overlap

struct Slot {  // a tensor (batch, parts, tokens, row); unit is 16 bytes where everything is aligned to them, else 2
    const char* from;
    char* to;
    i64 bytes, parts;
};

template <class Unit>
DEVICE void move_rows(const Slot& slot, const i64* index, const u8* valid, i64 b, int first, int n, int k) {
    int units = (int)(slot.bytes / sizeof(Unit));
    for (i64 part = 0; part < slot.parts; part++) {
        const char* from = slot.from + (b * slot.parts + part) * n * slot.bytes;
        char* to = slot.to + (b * slot.parts + part) * k * slot.bytes;
        for (int at = threadIdx.x; at < units; at += blockDim.x) {
            Unit held[TOGETHER];
#pragma unroll
            for (int r = 0; r < TOGETHER; r++) {
                int row = first + r;
                bool real = row < k && (!valid || valid[b * k + row]);
                held[r] = real ? ((const Unit*)(from + index[b * k + row] * slot.bytes))[at] : Unit{};
            }
#pragma unroll
            for (int r = 0; r < TOGETHER; r++)
                if (first + r < k) ((Unit*)(to + (i64)(first + r) * slot.bytes))[at] = held[r];
        }
    }
}

// Up to four tensors at once, all with the same index (B, K) of tokens; a null `from` ends the list.
// Grid (K / TOGETHER, B, 4).
KERNEL gather_rows(const i64* index, const u8* valid, int n, int k, int wide, const char* from0, char* to0, i64 bytes0,
                   i64 parts0, const char* from1, char* to1, i64 bytes1, i64 parts1, const char* from2, char* to2,
                   i64 bytes2, i64 parts2, const char* from3, char* to3, i64 bytes3, i64 parts3) {
    Slot slot = blockIdx.z == 0   ? Slot{from0, to0, bytes0, parts0}
                : blockIdx.z == 1 ? Slot{from1, to1, bytes1, parts1}
                : blockIdx.z == 2 ? Slot{from2, to2, bytes2, parts2}
                                  : Slot{from3, to3, bytes3, parts3};
    if (!slot.from) return;
    if (wide)
        move_rows<uint4>(slot, index, valid, blockIdx.y, blockIdx.x * TOGETHER, n, k);
    else
        move_rows<u16>(slot, index, valid, blockIdx.y, blockIdx.x * TOGETHER, n, k);
}

// out[row] = the sum over entries e of [offsets[row], offsets[row + 1]) of weights[e] * x[columns[e]], divided by
// divide[row] where it is given. One block a row of `width` numbers; out is float, or like x when `same`.
KERNEL sum_rows(const scalar* x, const i64* offsets, const i64* columns, const float* weights, const float* divide,
                void* out, int width, int same) {
    i64 row = blockIdx.x;
    i64 first = offsets[row], last = offsets[row + 1];
    float by = divide ? divide[row] : 1.0f;
    const int many = 16 / sizeof(scalar);
    bool wide = width % many == 0 && ((u64)x & 15) == 0;
    int step = wide ? many : 1;
    for (int d = threadIdx.x * step; d < width; d += blockDim.x * step) {
        float sums[many];
#pragma unroll
        for (int i = 0; i < many; i++) sums[i] = 0;
        for (i64 e = first; e < last; e++) {
            const scalar* source = x + columns[e] * width + d;
            float weight = weights[e];
            if (wide) {
                uint4 chunk = *(const uint4*)source;
                const scalar* parts = (const scalar*)&chunk;
#pragma unroll
                for (int i = 0; i < many; i++) sums[i] += weight * widen(parts[i]);
            } else {
                sums[0] += weight * widen(*source);
            }
        }
#pragma unroll
        for (int i = 0; i < many; i++)
            if (i < step) {
                float value = divide ? sums[i] / by : sums[i];
                if (same)
                    ((scalar*)out)[row * width + d + i] = narrow(value);
                else
                    ((float*)out)[row * width + d + i] = value;
            }
    }
}

// best[b, i] = the largest edges[b, i, j] over receivers j that are real, match[b, i] the lowest such j; penalty
// (B, A) is taken off; -infinity where i is not real or no j is. One block a row of edges (B, A, R).
KERNEL best_match(const float* edges, const u8* sends, const u8* receives, const float* penalty, float* best,
                  i64* match, int receivers) {
    u32* slots = (u32*)shared_pool();
    i64 b = blockIdx.y, row = b * gridDim.x + blockIdx.x;
    u32 key = 0, index = 0xffffffffu;
    for (int j = threadIdx.x; j < receivers; j += blockDim.x) {
        u32 other = receives[b * receivers + j] ? key_of(edges[row * receivers + j]) : 0;
        if (other > key) key = other, index = j;
    }
    Top top = cluster_top(key, index, slots);
    if (threadIdx.x == 0) {
        bool real = top.key != 0 && sends[row];
        best[row] = real ? value_of(top.key) - (penalty ? penalty[row] : 0.0f) : __uint_as_float(0xff800000u);
        match[row] = top.key != 0 ? top.index : 0;
    }
}
