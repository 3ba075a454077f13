// Order-preserving keys, and reductions over a block or a cluster, for kernels of 1 to 1,024 threads in whole warps.
#pragma once
#include "device.cuh"

DEVICE u32 lane() { return threadIdx.x & 31; }
DEVICE u32 warp() { return threadIdx.x >> 5; }

// A number's place among all floats: a < b exactly when key(a) < key(b); both zeros have one key; never 0.
DEVICE u32 key_of(float x) {
    u32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEVICE float value_of(u32 key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

struct Top {
    u32 key, index;
};

DEVICE Top warp_top(u32 key, u32 index) {
    u32 best = warp_max(key);
    return {best, warp_min(key == best ? index : 0xffffffffu)};
}

// The largest key of the cluster and the lowest index that has it, known to every thread.
// `slots` are 66 numbers of shared memory; two calls in a row must use different ones.
DEVICE Top cluster_top(u32 key, u32 index, u32* slots) {
    Top mine = warp_top(key, index);
    if (lane() == 0) {
        slots[warp()] = mine.key;
        slots[32 + warp()] = mine.index;
    }
    __syncthreads();
    bool used = lane() < blockDim.x / 32;
    mine = warp_top(used ? slots[lane()] : 0, used ? slots[32 + lane()] : 0xffffffffu);
#if CLUSTER > 1
    if (threadIdx.x == 0) {
        slots[64] = mine.key;
        slots[65] = mine.index;
    }
    cluster_sync();
    used = lane() < CLUSTER;
    mine = warp_top(used ? cluster_read(slots + 64, lane()) : 0,
                    used ? cluster_read(slots + 65, lane()) : 0xffffffffu);
#endif
    return mine;
}

// The sum over the block, in one fixed order, known to every thread; `slots` are 32 numbers of shared memory.
template <class T>
DEVICE T block_sum(T x, T* slots) {
    for (int distance = 16; distance; distance /= 2) x += warp_swap(x, distance);
    __syncthreads();
    if (lane() == 0) slots[warp()] = x;
    __syncthreads();
    x = lane() < blockDim.x / 32 ? slots[lane()] : T(0);
    for (int distance = 16; distance; distance /= 2) x += warp_swap(x, distance);
    return x;
}
