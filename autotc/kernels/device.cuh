// The few things of a GPU that the kernels here use, under plain names. No header is included, so that NVRTC
// alone compiles them, whatever toolkit is installed. DTYPE is 0 for float, 1 for half, 2 for bfloat16;
// CLUSTER is how many blocks work together on one sequence (more than 1 from compute capability 9.0 on).
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifndef DTYPE
#define DTYPE 0
#endif
#ifndef CLUSTER
#define CLUSTER 1
#endif
#if CLUSTER > 1
#define KERNEL extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1)
#else
#define KERNEL extern "C" __global__ void
#endif
#define DEVICE __device__ __forceinline__

#if DTYPE == 0
typedef float scalar;
DEVICE float widen(float x) { return x; }
DEVICE float narrow(float x) { return x; }
#else
typedef u16 scalar;
DEVICE float widen(u16 bits) {
#if DTYPE == 1
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    return __uint_as_float((u32)bits << 16);
#endif
}
DEVICE u16 narrow(float x) {
    u16 bits;
#if DTYPE == 1
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#endif
    return bits;
}
#endif

// Dynamic shared memory of this block, 16-byte aligned.
DEVICE char* shared_pool() {
    extern __shared__ __align__(16) char pool[];
    return pool;
}

DEVICE u32 warp_max(u32 x) { return __reduce_max_sync(0xffffffffu, x); }
DEVICE u32 warp_min(u32 x) { return __reduce_min_sync(0xffffffffu, x); }
DEVICE u32 warp_ballot(bool x) { return __ballot_sync(0xffffffffu, x); }
template <class T>
DEVICE T warp_swap(T x, int distance) { return __shfl_xor_sync(0xffffffffu, x, distance); }

// Reads what another block of the cluster wrote to global memory before the last cluster_sync.
DEVICE float fresh(const float* address) { return __ldcg(address); }
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE u32 cluster_rank() {
#if CLUSTER > 1
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return 0;
#endif
}
DEVICE void cluster_sync() {
#if CLUSTER > 1
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}
// Reads shared memory of the block with this rank in the cluster.
DEVICE u32 cluster_read(const u32* address, u32 rank) {
#if CLUSTER > 1
    u32 mine = (u32)__cvta_generic_to_shared(address), theirs, value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(mine), "r"(rank));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(theirs) : "memory");
    return value;
#else
    return *address;
#endif
}

#if DTYPE != 0
// Four 8 x 8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&out)[4], const scalar* row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
// c (16 x 8, float) += a (16 x 16) b (16 x 8), spread over the warp as PTX defines for mma.m16n8k16.
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if DTYPE == 1
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
