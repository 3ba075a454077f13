// Runs CUDA kernels that are compiled for the host: every CUDA thread is a fiber, blocks of a cluster run together,
// clusters one after another. Barriers and warp operations wait for exactly the threads that CUDA asks for;
// where some never come, the launch ends with an error. Fibers run in an order drawn at random between two barriers, so
// that a missing barrier shows. Shared memory starts as NaN.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
using std::max;
using std::min;

#define KERNEL static void
#define DEVICE static inline

struct uint4 {
    u32 x, y, z, w;
};
struct Dim {
    u32 x, y, z;
};

namespace emulator {
enum State { READY, AT_WARP, AT_BLOCK, AT_CLUSTER, DONE };
const size_t STACK = 64 << 10;

struct Thread {
    ucontext_t context;  // to begin; after that `place`, for switching by setjmp makes no system call
    jmp_buf place;
    bool begun;
    Dim thread, block;
    u32 number, of_block;  // in the cluster, and its block in it
    State state;
    u32 turn;  // warp operations so far: two buffers are enough, for no lane is ever two ahead
    std::unique_ptr<char[]> stack;
};
inline std::vector<Thread> threads;
inline std::vector<std::vector<char>> pools;               // shared memory of each block of the cluster
inline std::vector<std::array<std::array<std::array<u32, 8>, 32>, 2>> lanes;  // what the lanes of each warp put down
inline Thread* now;
inline jmp_buf home;
inline Dim grid_size, block_size;
inline std::string error;
inline u32 cluster = 1;

inline void wait(State state) {
    now->state = state;
    if (!_setjmp(now->place)) _longjmp(home, 1);
}
__attribute__((noinline)) inline void enter(Thread& thread) {
    now = &thread;
    if (_setjmp(home)) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.context);
}
inline auto& put_down(std::initializer_list<u32> values) {
    auto& buffer = lanes[now->number / 32][now->turn++ & 1];
    std::copy(values.begin(), values.end(), buffer[now->number % 32].begin());
    wait(AT_WARP);
    return buffer;
}

inline bool release(size_t size, State state) {
    bool any = false;
    for (size_t first = 0; first < threads.size(); first += size) {
        auto begin = threads.begin() + first, end = begin + size;
        if (std::all_of(begin, end, [&](const Thread& t) { return t.state == state; })) {
            std::for_each(begin, end, [](Thread& t) { t.state = READY; });
            any = true;
        }
    }
    return any;
}

template <class Body>
void run_cluster(Dim first, Body& body, std::mt19937& random) {
    static Body* running;
    running = &body;
    size_t size = block_size.x;
    for (size_t i = 0; i < threads.size(); i++) {
        Thread& t = threads[i];
        u32 block = (u32)(i / size);
        t.thread = {(u32)(i % size), 0, 0};
        t.block = {first.x + block, first.y, first.z};
        t.number = (u32)i, t.of_block = block, t.state = READY, t.turn = 0;
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.get();
        t.context.uc_stack.ss_size = STACK;
        t.context.uc_link = nullptr, t.begun = false;
        makecontext(&t.context, (void (*)())(+[]() {
                        (*running)();
                        wait(DONE);
                    }),
                    0);
    }
    for (auto& pool : pools) std::fill(pool.begin(), pool.end(), (char)0xff);
    std::vector<u32> order(threads.size());
    std::iota(order.begin(), order.end(), 0u);
    for (;;) {
        std::shuffle(order.begin(), order.end(), random);
        for (u32 i : order)
            if (threads[i].state == READY) enter(threads[i]);
        bool on = release(32, AT_WARP);
        on |= release(size, AT_BLOCK);
        on |= release(threads.size(), AT_CLUSTER);
        if (on) continue;
        if (!std::all_of(threads.begin(), threads.end(), [](const Thread& t) { return t.state == DONE; }))
            error = "threads wait for others that never come";
        return;
    }
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_cv_t<A>*)arguments[I]...);
}

// Runs a kernel on a grid; `arguments` points to each argument, as cuLaunchKernel takes them.
template <class... A>
const char* launch(u32 clustered, void (*kernel)(A...), const u32* grid, u32 block, u32 shared, u32 seed, void** arguments,
                   u32 many) {
    error.clear();
    cluster = clustered;
    if (many != sizeof...(A)) return "wrong number of arguments";
    if (block % 32 || block > 1024 || grid[0] % cluster) return "not a block of whole warps, or a grid of whole clusters";
    grid_size = {grid[0], grid[1], grid[2]}, block_size = {block, 1, 1};
    if (threads.size() != block * cluster) {
        threads.clear();
        threads.resize(block * cluster);
        for (auto& t : threads) t.stack.reset(new char[STACK]);
    }
    lanes.resize(block * cluster / 32);
    pools.assign(cluster, std::vector<char>(shared + 16));
    std::mt19937 random(seed);
    auto body = [&]() { call(kernel, arguments, std::make_index_sequence<sizeof...(A)>()); };
    for (u32 z = 0; z < grid[2]; z++)
        for (u32 y = 0; y < grid[1]; y++)
            for (u32 x = 0; x < grid[0]; x += cluster) {
                run_cluster({x, y, z}, body, random);
                for (auto& pool : pools)  // 16 bytes behind what was asked for
                    for (u32 i = 0; i < 16; i++)
                        if (pool[shared + i] != (char)0xff) error = "a write behind the shared memory that was asked for";
                if (!error.empty()) return error.c_str();
            }
    return nullptr;
}
}  // namespace emulator

#define threadIdx (emulator::now->thread)
#define blockIdx (emulator::now->block)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

