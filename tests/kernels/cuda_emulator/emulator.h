// Runs our CUDA sources on the CPU: what nvcc has built in, as g++ can have it.
//
// The threads of a block are fibers that run in turn, each until it waits: for its block at
// __syncthreads, for its warp at a shuffle. Blocks run one after the other; shared memory holds NaN
// when a block begins. A missing barrier shows as NaN or as another thread's later value, in one
// order of the threads or in the other; a barrier that not all threads reach is an error.
// Not modelled: races between blocks, divergence inside a warp, limits of a real GPU.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __syncthreads() emulator::block_barrier(__LINE__)
#define SHARED(type, name, ...)      \
    static type name __VA_ARGS__;    \
    emulator::poison(&name, sizeof(name))

using std::min;

struct float2 {
    float x, y;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct Index {
    int x, y, z;
};

static Index threadIdx, blockIdx, gridDim;

static void sincospif(float x, float* sine, float* cosine) {
    *sine = static_cast<float>(std::sin(M_PI * x));
    *cosine = static_cast<float>(std::cos(M_PI * x));
}

struct __half {
    _Float16 value;
    __half(float x) : value(static_cast<_Float16>(x)) {}
    operator float() const { return value; }
};

struct __nv_bfloat16 {
    std::uint16_t bits;
    __nv_bfloat16(float x) {
        std::uint32_t wide;
        std::memcpy(&wide, &x, sizeof(wide));
        // to the nearest, ties to even; NaN must not be carried into infinity
        bits = x != x ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    }
    operator float() const {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float x;
        std::memcpy(&x, &wide, sizeof(x));
        return x;
    }
};

namespace emulator {

enum class State { runs, waits_for_warp, waits_for_block, done };

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::vector<char> stack;
    State state;
    bool started;
    float offered;
};

static std::vector<Fiber> fibers;
static std::vector<void*> poisoned;
static std::function<void()> work;
static jmp_buf scheduler;
static int current;
// of the tests: the order of threads, and a line whose barrier is left out
static bool descending;
static int skipped_line;

static void leave(State state) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
    if (!_setjmp(fiber.place)) _longjmp(scheduler, 1);
}

static void block_barrier(int line) {
    if (line != skipped_line) leave(State::waits_for_block);
}

static void poison(void* memory, std::size_t bytes) {
    if (std::find(poisoned.begin(), poisoned.end(), memory) != poisoned.end()) return;
    poisoned.push_back(memory);
    std::memset(memory, 0xff, bytes);
}

static void loop() {
    while (true) {
        work();
        leave(State::done);
    }
}

static void prepare(int threads) {
    while (static_cast<int>(fibers.size()) < threads) {
        fibers.emplace_back();
        fibers.back().stack.resize(1 << 16);
        fibers.back().started = false;
    }
    fibers.resize(threads);
}

static void resume(int thread) {
    current = thread;
    threadIdx = {thread, 0, 0};
    Fiber& fiber = fibers[thread];
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.start, loop, 0);
    setcontext(&fiber.start);
}

static bool all(int begin, int end, State state) {
    for (int i = begin; i < end; ++i) {
        if (fibers[i].state != state) return false;
    }
    return true;
}

static void wake(int begin, int end) {
    for (int i = begin; i < end; ++i) fibers[i].state = State::runs;
}

// false if some threads wait for others that never come
static bool run_block(int threads) {
    poisoned.clear();
    wake(0, threads);
    while (true) {
        for (int i = 0; i < threads; ++i) {
            const int thread = descending ? threads - 1 - i : i;
            if (fibers[thread].state == State::runs) resume(thread);
        }
        if (all(0, threads, State::done)) return true;
        bool woken = all(0, threads, State::waits_for_block);
        if (woken) wake(0, threads);
        for (int warp = 0; warp < threads; warp += 32) {
            if (!all(warp, warp + 32, State::waits_for_warp)) continue;
            wake(warp, warp + 32);
            woken = true;
        }
        if (!woken) return false;
    }
}

}  // namespace emulator

static float __shfl_xor_sync(unsigned, float x, int lanes) {
    emulator::fibers[emulator::current].offered = x;
    emulator::leave(emulator::State::waits_for_warp);
    const float other = emulator::fibers[emulator::current ^ lanes].offered;
    // nobody offers the next value before all have taken this one
    emulator::leave(emulator::State::waits_for_warp);
    return other;
}

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void*, Arguments... given) {
    emulator::prepare(threads);
    emulator::work = [=] { kernel(static_cast<Parameters>(given)...); };
    gridDim = {static_cast<int>(grid.x), static_cast<int>(grid.y), static_cast<int>(grid.z)};
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {static_cast<int>(x), static_cast<int>(y), static_cast<int>(z)};
                if (emulator::run_block(threads)) continue;
                // fibers that still wait inside the kernel are of no more use
                emulator::fibers.clear();
                return 1;
            }
        }
    }
    return 0;
}

extern "C" void emulator_order(int descending) { emulator::descending = descending != 0; }

extern "C" void emulator_skip(int line) { emulator::skipped_line = line; }
