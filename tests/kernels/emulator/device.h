// The place of device.cuh in the emulator; compiled once for each DTYPE and CLUSTER, in a namespace of its own.
#ifndef CLUSTER
#define CLUSTER 1
#endif

DEVICE u32 __float_as_uint(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
DEVICE float __uint_as_float(u32 bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
DEVICE int __popc(u32 x) { return __builtin_popcount(x); }
DEVICE void __syncthreads() { emulator::wait(emulator::AT_BLOCK); }
DEVICE u32 atomicAdd(u32* address, u32 x) {
    u32 old = *address;
    *address += x;
    return old;
}

#if DTYPE == 0
typedef float scalar;
DEVICE float widen(float x) { return x; }
DEVICE float narrow(float x) { return x; }
#elif DTYPE == 1
typedef u16 scalar;
DEVICE float widen(u16 bits) {
    _Float16 x;
    std::memcpy(&x, &bits, 2);
    return (float)x;
}
DEVICE u16 narrow(float x) {
    _Float16 half = (_Float16)x;
    u16 bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
#else
typedef u16 scalar;
DEVICE float widen(u16 bits) { return __uint_as_float((u32)bits << 16); }
DEVICE u16 narrow(float x) {  // round to nearest even
    u32 bits = __float_as_uint(x);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

DEVICE char* shared_pool() { return emulator::pools[emulator::now->of_block].data(); }

DEVICE u32 warp_max(u32 x) {
    auto& all = emulator::put_down({x});
    u32 best = 0;
    for (auto& lane : all) best = std::max(best, lane[0]);
    return best;
}
DEVICE u32 warp_min(u32 x) { return ~warp_max(~x); }
DEVICE u32 warp_ballot(bool x) {
    auto& all = emulator::put_down({x});
    u32 bits = 0;
    for (int i = 0; i < 32; i++) bits |= all[i][0] << i;
    return bits;
}
template <class T>
DEVICE T warp_swap(T x, int distance) {
    u32 parts[2] = {0, 0};
    std::memcpy(parts, &x, sizeof(T));
    auto& all = emulator::put_down({parts[0], parts[1]});
    T other;
    std::memcpy(&other, all[(emulator::now->number % 32) ^ distance].data(), sizeof(T));
    return other;
}
DEVICE float fresh(const float* address) { return *address; }
DEVICE float exp2_fast(float x) { return std::exp2(x); }

DEVICE u32 cluster_rank() { return emulator::now->of_block; }
DEVICE void cluster_sync() { emulator::wait(CLUSTER > 1 ? emulator::AT_CLUSTER : emulator::AT_BLOCK); }
DEVICE u32 cluster_read(const u32* address, u32 rank) {
    size_t offset = (const char*)address - shared_pool();
    return *(const u32*)(emulator::pools[rank].data() + offset);
}

#if DTYPE != 0
// As PTX defines ldmatrix.m8n8.x4: lane l receives of matrix i the pair at row l / 4, columns l % 4 * 2 and the next.
DEVICE void load_matrices(u32 (&out)[4], const scalar* row) {
    u64 address = (u64)row;
    auto& all = emulator::put_down({(u32)address, (u32)(address >> 32)});
    u32 lane = emulator::now->number % 32;
    for (u32 i = 0; i < 4; i++) {
        auto& from = all[i * 8 + lane / 4];
        const scalar* start = (const scalar*)((u64)from[0] | (u64)from[1] << 32);
        if ((u64)start % 16) emulator::error = "a matrix row that is not 16-byte aligned";
        std::memcpy(&out[i], start + lane % 4 * 2, 4);
    }
}
// As PTX defines mma.m16n8k16: a0..a3 are (row, k) = (l / 4 + i % 2 * 8, l % 4 * 2 + i / 2 * 8), b0, b1 are
// (k, column) = (l % 4 * 2 + i * 8, l / 4), c is (row, column) = (l / 4 + i / 2 * 8, l % 4 * 2 + i % 2).
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    auto& all = emulator::put_down({a[0], a[1], a[2], a[3], b0, b1});
    u32 lane = emulator::now->number % 32;
    auto half = [](u32 pair, u32 which) { return widen((u16)(pair >> which * 16)); };
    for (u32 i = 0; i < 4; i++) {
        u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = c[i];
        for (u32 k = 0; k < 16; k++) {
            float x = half(all[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
            float y = half(all[column * 4 + k % 8 / 2][4 + k / 8], k % 2);
            sum += (double)x * y;
        }
        c[i] = (float)sum;
    }
}
#endif
