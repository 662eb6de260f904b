// Selective scan h_t = exp(delta_t a) h_{t-1} + delta_t b_t u_t, y_t = c_t . h_t, and its gradients,
// in tiles of the sequence that run side by side.
//
// Legend: B batch, D channels, N length, S states, G groups of channels that share b and c. A thread
// has one state of one channel; LANES of them, a power of two of at least S, lie side by side in a
// warp. What a tile adds to the state is found first, then carried from tile to tile, then every
// tile runs again from what reached it; the gradient does the same from the end.
#include "device.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32, TILE = 16;
// blocks that a processor should hold: without a word ptxas wants twice as many, and spills
constexpr int BLOCKS = 8;

struct Sizes {
    int channels, length, states, groups;
};

// where a thread works: the block has a tile of tokens and a few channels of a group
struct Place {
    int slot, state, rows, count;
    bool live;
    // of (B, D, N), (B, G, S, N) at the block's first entry; of (B, tiles, D) and (D, S) at its own
    long long sequence, shared, channel, rate;
};

template <int LANES>
__device__ Place place(const Sizes& sizes, int group, int base) {
    const int slot = threadIdx.x / LANES, state = threadIdx.x % LANES;
    const int per_group = sizes.channels / sizes.groups, first = blockIdx.x * TILE;
    const int rows = min(THREADS / LANES, per_group - base), channel = group * per_group + base;
    const long long batch = blockIdx.z, tile = batch * gridDim.x + blockIdx.x;
    return {
        slot, state, rows, min(TILE, sizes.length - first), slot < rows && state < sizes.states,
        (batch * sizes.channels + channel) * sizes.length + first,
        (batch * sizes.groups + group) * sizes.states * sizes.length + first,
        tile * sizes.channels + channel + slot,
        static_cast<long long>(channel + slot) * sizes.states + state};
}

// one block for every few channels
template <int LANES>
__device__ Place own_place(const Sizes& sizes) {
    constexpr int CHANNELS = THREADS / LANES;
    const int splits = blocks(sizes.channels / sizes.groups, CHANNELS);
    return place<LANES>(sizes, blockIdx.y / splits, blockIdx.y % splits * CHANNELS);
}

// tile[row][t] = x[row][t]; what lies outside is 0: a step of 0 changes no state
template <int ROWS, int WIDTH, typename T>
__device__ void stage(
    const T* x, int rows, int length, int count, float (&tile)[ROWS][WIDTH]) {
    for (int i = threadIdx.x; i < ROWS * TILE; i += THREADS) {
        const int row = i / TILE, t = i % TILE;
        const bool inside = row < rows && t < count;
        tile[row][t] = inside ? static_cast<float>(x[row * static_cast<long long>(length) + t]) : 0;
    }
}

// the state that each tile ends with if it begins at 0, and the sum of its steps
template <typename T, int LANES>
__global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_tiles(
    const T* u, const float* delta, const float* a, const T* b, float* states, float* totals,
    Sizes sizes) {
    SHARED(float, inputs, [THREADS / LANES][TILE + 1]);
    SHARED(float, steps, [THREADS / LANES][TILE + 1]);
    SHARED(float, into, [LANES][TILE + 1]);
    const Place here = own_place<LANES>(sizes);
    stage(u + here.sequence, here.rows, sizes.length, here.count, inputs);
    stage(delta + here.sequence, here.rows, sizes.length, here.count, steps);
    stage(b + here.shared, sizes.states, sizes.length, here.count, into);
    __syncthreads();
    if (!here.live) return;
    const float rate = a[here.rate];
    float h = 0, total = 0;
    for (int t = 0; t < TILE; ++t) {
        const float step = steps[here.slot][t];
        h = expf(step * rate) * h + step * inputs[here.slot][t] * into[here.state][t];
        total += step;
    }
    states[here.channel * sizes.states + here.state] = h;
    if (here.state == 0) totals[here.channel] = total;
}

// what reaches each tile, in place, and what is left in the end; reversed, from the last tile on
__global__ void __launch_bounds__(THREADS) selective_scan_carry(
    const float* a, const float* totals, const float* begin, float* states, float* end, int tiles,
    int channels, int state_count, bool reverse) {
    const int i = blockIdx.x * THREADS + threadIdx.x, size = channels * state_count;
    if (i >= size) return;
    const long long batch = blockIdx.y;
    const float rate = a[i];
    float h = begin[batch * size + i];
    for (int n = 0; n < tiles; ++n) {
        const long long tile = batch * tiles + (reverse ? tiles - 1 - n : n);
        const float added = states[tile * size + i];
        states[tile * size + i] = h;
        h = expf(totals[tile * channels + i / state_count] * rate) * h + added;
    }
    end[batch * size + i] = h;
}

template <typename T, int LANES>
__global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_outputs(
    const T* u, const float* delta, const float* a, const T* b, const T* c, const float* states,
    float* y, Sizes sizes) {
    SHARED(float, inputs, [THREADS / LANES][TILE + 1]);
    SHARED(float, steps, [THREADS / LANES][TILE + 1]);
    SHARED(float, into, [LANES][TILE + 1]);
    SHARED(float, out, [LANES][TILE + 1]);
    const Place here = own_place<LANES>(sizes);
    stage(u + here.sequence, here.rows, sizes.length, here.count, inputs);
    stage(delta + here.sequence, here.rows, sizes.length, here.count, steps);
    stage(b + here.shared, sizes.states, sizes.length, here.count, into);
    stage(c + here.shared, sizes.states, sizes.length, here.count, out);
    __syncthreads();
    const float rate = here.live ? a[here.rate] : 0;
    float h = here.live ? states[here.channel * sizes.states + here.state] : 0, mine = 0;
#pragma unroll
    for (int t = 0; t < TILE; ++t) {
        const float step = steps[here.slot][t];
        h = expf(step * rate) * h + step * inputs[here.slot][t] * into[here.state][t];
        const float sum = lanes_sum<LANES>(out[here.state][t] * h);
        if (here.state == t) mine = sum;
    }
    const long long at = here.sequence + here.slot * static_cast<long long>(sizes.length);
    if (here.slot < here.rows && here.state < here.count) y[at + here.state] = mine;
}

// the gradient that each tile's own outputs send to the state before the tile
template <typename T, int LANES>
__global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_adjoints(
    const float* delta, const float* a, const T* c, const float* grad, float* adjoints,
    Sizes sizes) {
    SHARED(float, grads, [THREADS / LANES][TILE + 1]);
    SHARED(float, steps, [THREADS / LANES][TILE + 1]);
    SHARED(float, out, [LANES][TILE + 1]);
    const Place here = own_place<LANES>(sizes);
    stage(grad + here.sequence, here.rows, sizes.length, here.count, grads);
    stage(delta + here.sequence, here.rows, sizes.length, here.count, steps);
    stage(c + here.shared, sizes.states, sizes.length, here.count, out);
    __syncthreads();
    if (!here.live) return;
    const float rate = a[here.rate];
    float g = 0;
    for (int t = TILE - 1; t >= 0; --t) {
        g = expf(steps[here.slot][t] * rate) * (g + out[here.state][t] * grads[here.slot][t]);
    }
    adjoints[here.channel * sizes.states + here.state] = g;
}

// what a thread keeps of its tile: the state before each token and the decay, and, over all its
// channels, the gradients of b and c
struct History {
    float before[TILE], decay[TILE], of_b[TILE], of_c[TILE];
};

// one channel's part of the gradients; adjoints become what each tile adds to the gradient of a
template <int LANES>
__device__ void pull_back(
    const Place& here, const Sizes& sizes, const float* a, const float* states, float* adjoints,
    const float* inputs, const float* steps, const float* grads, const float* into,
    const float* out, History& history, float& of_input, float& of_step) {
    const long long at = here.channel * sizes.states + here.state;
    const float rate = here.live ? a[here.rate] : 0;
    float h = here.live ? states[at] : 0, g = here.live ? adjoints[at] : 0, of_rate = 0;
#pragma unroll
    for (int t = 0; t < TILE; ++t) {
        history.before[t] = h;
        history.decay[t] = expf(steps[t] * rate);
        h = history.decay[t] * h + steps[t] * inputs[t] * into[t];
    }
#pragma unroll
    for (int t = TILE - 1; t >= 0; --t) {
        const float after = t + 1 < TILE ? history.before[t + 1] : h;
        history.of_c[t] += grads[t] * after;
        g += out[t] * grads[t];
        history.of_b[t] += g * steps[t] * inputs[t];
        const float kept = history.decay[t] * history.before[t];
        of_rate += g * steps[t] * kept;
        const float sum = lanes_sum<LANES>(g * into[t]);
        const float slope = lanes_sum<LANES>(g * rate * kept);
        if (here.state == t) {
            of_input = sum * steps[t];
            of_step = slope + sum * inputs[t];
        }
        g *= history.decay[t];
    }
    if (here.live) adjoints[at] = of_rate;
}

// the sum over the channels of a warp
template <int LANES>
__device__ float channels_sum(float x) {
#pragma unroll
    for (int offset = LANES; offset < 32; offset *= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    }
    return x;
}

// a block has all channels of a group, so that it alone sums the gradients of b and c
template <typename T, int LANES>
__global__ void __launch_bounds__(THREADS) selective_scan_gradients(
    const T* u, const float* delta, const float* a, const T* b, const T* c, const float* states,
    const float* grad, float* adjoints, T* grad_u, float* grad_delta, T* grad_b, T* grad_c,
    Sizes sizes) {
    constexpr int CHANNELS = THREADS / LANES;
    SHARED(float, inputs, [CHANNELS][TILE + 1]);
    SHARED(float, steps, [CHANNELS][TILE + 1]);
    SHARED(float, grads, [CHANNELS][TILE + 1]);
    SHARED(float, into, [LANES][TILE + 1]);
    SHARED(float, out, [LANES][TILE + 1]);
    SHARED(float, sums, [2][WARPS][LANES][TILE + 1]);
    const Place first = place<LANES>(sizes, blockIdx.y, 0);
    stage(b + first.shared, sizes.states, sizes.length, first.count, into);
    stage(c + first.shared, sizes.states, sizes.length, first.count, out);
    History history = {};
    for (int base = 0; base < sizes.channels / sizes.groups; base += CHANNELS) {
        const Place here = place<LANES>(sizes, blockIdx.y, base);
        stage(u + here.sequence, here.rows, sizes.length, here.count, inputs);
        stage(delta + here.sequence, here.rows, sizes.length, here.count, steps);
        stage(grad + here.sequence, here.rows, sizes.length, here.count, grads);
        __syncthreads();
        float of_input = 0, of_step = 0;
        pull_back<LANES>(
            here, sizes, a, states, adjoints, inputs[here.slot], steps[here.slot],
            grads[here.slot], into[here.state], out[here.state], history, of_input, of_step);
        const long long at = here.sequence + here.slot * static_cast<long long>(sizes.length);
        if (here.slot < here.rows && here.state < here.count) {
            grad_u[at + here.state] = T(of_input);
            grad_delta[at + here.state] = of_step;
        }
        __syncthreads();
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int t = 0; t < TILE; ++t) {
        const float of_b = channels_sum<LANES>(history.of_b[t]);
        const float of_c = channels_sum<LANES>(history.of_c[t]);
        if (lane < LANES) {
            sums[0][warp][lane][t] = of_b;
            sums[1][warp][lane][t] = of_c;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * sizes.states * TILE; i += THREADS) {
        const int which = i / (sizes.states * TILE), state = i / TILE % sizes.states, t = i % TILE;
        float sum = 0;
        for (int w = 0; w < WARPS; ++w) sum += sums[which][w][state][t];
        const long long at = first.shared + state * static_cast<long long>(sizes.length) + t;
        if (t < first.count) (which == 0 ? grad_b : grad_c)[at] = T(sum);
    }
}

template <int COUNT>
struct Lanes {
    static constexpr int count = COUNT;
};

template <typename Function>
int by_lanes(int states, Function f) {
    return states <= 16 ? f(Lanes<16>()) : f(Lanes<32>());
}

static int splits(const Sizes& sizes, int lanes) {
    return blocks(sizes.channels / sizes.groups, THREADS / lanes);
}

// u (B, D, N), b and c (B, G, S, N) of the dtype; delta and y (B, D, N), a (D, S),
// begin and end (B, D, S), states (B, tiles, D, S), totals (B, tiles, D) fp32
extern "C" int selective_scan_forward(
    int dtype, const void* u, const float* delta, const float* a, const void* b, const void* c,
    const float* begin, float* states, float* totals, float* end, float* y, int batch,
    int channels, int length, int states_count, int groups, void* stream) {
    const Sizes sizes = {channels, length, states_count, groups};
    return by_dtype(dtype, [&](auto zero) {
        return by_lanes(states_count, [&](auto lanes) {
            using T = decltype(zero);
            constexpr int LANES = decltype(lanes)::count;
            const T *input = static_cast<const T*>(u), *into = static_cast<const T*>(b);
            const int tiles = blocks(length, TILE);
            const dim3 grid(tiles, groups * splits(sizes, LANES), batch);
            const dim3 carriers(blocks(channels * states_count, THREADS), batch);
            int error = launch(
                selective_scan_tiles<T, LANES>, grid, THREADS, stream, input, delta, a, into,
                states, totals, sizes);
            if (!error) error = launch(
                selective_scan_carry, carriers, THREADS, stream, a, totals, begin, states, end,
                tiles, channels, states_count, false);
            if (!error) error = launch(
                selective_scan_outputs<T, LANES>, grid, THREADS, stream, input, delta, a, into,
                static_cast<const T*>(c), states, y, sizes);
            return error;
        });
    });
}

// begin and end: gradients of the last state and of the first
extern "C" int selective_scan_backward(
    int dtype, const void* u, const float* delta, const float* a, const void* b, const void* c,
    const float* states, const float* totals, const float* grad, const float* begin,
    float* adjoints, float* end, void* grad_u, float* grad_delta, void* grad_b, void* grad_c,
    int batch, int channels, int length, int states_count, int groups, void* stream) {
    const Sizes sizes = {channels, length, states_count, groups};
    return by_dtype(dtype, [&](auto zero) {
        return by_lanes(states_count, [&](auto lanes) {
            using T = decltype(zero);
            constexpr int LANES = decltype(lanes)::count;
            const T* out = static_cast<const T*>(c);
            const int tiles = blocks(length, TILE);
            const dim3 grid(tiles, groups * splits(sizes, LANES), batch);
            const dim3 carriers(blocks(channels * states_count, THREADS), batch);
            int error = launch(
                selective_scan_adjoints<T, LANES>, grid, THREADS, stream, delta, a, out, grad,
                adjoints, sizes);
            if (!error) error = launch(
                selective_scan_carry, carriers, THREADS, stream, a, totals, begin, adjoints, end,
                tiles, channels, states_count, true);
            if (!error) error = launch(
                selective_scan_gradients<T, LANES>, dim3(tiles, groups, batch), THREADS, stream,
                static_cast<const T*>(u), delta, a, static_cast<const T*>(b), out, states, grad,
                adjoints, static_cast<T*>(grad_u), grad_delta, static_cast<T*>(grad_b),
                static_cast<T*>(grad_c), sizes);
            return error;
        });
    });
}
