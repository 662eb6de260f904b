// WKV of RWKV-4 and its gradients, in tiles of the sequence that run side by side.
//
// Legend: B batch, N length, D channels. A thread has one channel of one tile. What a tile adds is
// found first, then carried from tile to tile, then every tile runs again from what reached it; the
// gradient does the same from the end.
#include "device.cuh"

constexpr int THREADS = 128, TILE = 16;

// the sums a e^p and b e^p; forward numerator and denominator, backward their gradients. Exponents
// are in double precision: beside a large key a small decay would be lost
struct Sums {
    float a, b;
    double p;
};

// the larger; NaN if either is
__device__ double larger(double x, double y) { return x > y || x != x ? x : y; }

// the same, 0 where both are -inf
__device__ double scale_of(double x, double y) {
    const double scale = larger(x, y);
    return scale == -INFINITY ? 0 : scale;
}

__device__ Sums nothing() { return {0, 0, -INFINITY}; }

__device__ float power(double exponent) { return expf(static_cast<float>(exponent)); }

// old e^-decay + added
__device__ Sums merged(Sums old, double decay, Sums added) {
    const double scale = scale_of(old.p - decay, added.p);
    const float past = power(old.p - decay - scale), present = power(added.p - scale);
    return {
        past * old.a + present * added.a, past * old.b + present * added.b,
        larger(old.p - decay, added.p)};
}

// an output: y = (past a + present v) / total, relative to e^-reach
struct Average {
    double reach;
    float present, total, y;
};

__device__ Average average(Sums before, double key, float v) {
    const double scale = scale_of(before.p, key);
    const float past = power(before.p - scale), present = power(key - scale);
    const float total = past * before.b + present;
    const double reach = larger(before.p, key) == -INFINITY ? -INFINITY : -scale;
    return {reach, present, total, (past * before.a + present * v) / (total == 0 ? 1 : total)};
}

// gradients of numerator and denominator of an output
__device__ Sums pulled_back(Average out, float grad) {
    const float of_a = grad / (out.total == 0 ? 1 : out.total);
    return {of_a, out.total == 0 ? 0 : -of_a * out.y, out.reach};
}

// where a thread works: `at` of (B, N, D) at its first token, `tile` of (B, tiles, 3, D)
struct Place {
    int channel, count;
    long long at, tile;
};

__device__ Place place(int length, int channels) {
    const int channel = blockIdx.y * THREADS + threadIdx.x, first = blockIdx.x * TILE;
    const long long batch = blockIdx.z;
    return {
        channel, channel < channels ? min(TILE, length - first) : 0,
        (batch * length + first) * channels + channel,
        (batch * gridDim.x + blockIdx.x) * 3 * channels + channel};
}

__device__ Sums read(const double* states, long long at, int channels) {
    return {
        static_cast<float>(states[at]), static_cast<float>(states[at + channels]),
        states[at + 2 * channels]};
}

__device__ void write(double* states, long long at, int channels, Sums sums) {
    states[at] = sums.a;
    states[at + channels] = sums.b;
    states[at + 2 * channels] = sums.p;
}

template <typename T>
__device__ Sums token(const T* k, const T* v, long long at) {
    return {static_cast<float>(v[at]), 1, static_cast<float>(k[at])};
}

// what each tile adds
template <typename T>
__global__ void __launch_bounds__(THREADS) wkv_tiles(
    const float* w, const T* k, const T* v, double* states, int length, int channels) {
    const Place here = place(length, channels);
    if (here.count == 0) return;
    Sums sums = nothing();
    for (int t = 0; t < here.count; ++t) {
        sums = merged(sums, w[here.channel], token(k, v, here.at + t * channels));
    }
    write(states, here.tile, channels, sums);
}

// what reaches each tile, in place, and what is left in the end; reversed, from the last tile on
__global__ void __launch_bounds__(THREADS) wkv_carry(
    const float* w, const double* begin, double* states, double* end, int tiles, int length,
    int channels, bool reverse) {
    const int channel = blockIdx.x * THREADS + threadIdx.x;
    if (channel >= channels) return;
    const long long batch = blockIdx.y, edge = batch * 3 * channels + channel;
    Sums sums = read(begin, edge, channels);
    for (int i = 0; i < tiles; ++i) {
        const int tile = reverse ? tiles - 1 - i : i;
        const long long at = (batch * tiles + tile) * 3 * channels + channel;
        const Sums added = read(states, at, channels);
        write(states, at, channels, sums);
        const int count = min(TILE, length - tile * TILE);
        sums = merged(sums, static_cast<double>(w[channel]) * count, added);
    }
    write(end, edge, channels, sums);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) wkv_outputs(
    const float* w, const float* u, const T* k, const T* v, const double* states, T* y, int length,
    int channels) {
    const Place here = place(length, channels);
    if (here.count == 0) return;
    const float decay = w[here.channel], bonus = u[here.channel];
    Sums sums = read(states, here.tile, channels);
    for (int t = 0; t < here.count; ++t) {
        const long long at = here.at + t * channels;
        const Sums present = token(k, v, at);
        y[at] = T(average(sums, bonus + present.p, present.a).y);
        sums = merged(sums, decay, present);
    }
}

// the sums before each token of a tile, in registers
template <typename T>
__device__ void replay(
    Sums sums, float decay, const T* k, const T* v, const Place& here, int channels,
    Sums (&before)[TILE]) {
#pragma unroll
    for (int t = 0; t < TILE; ++t) {
        before[t] = sums;
        if (t < here.count) sums = merged(sums, decay, token(k, v, here.at + t * channels));
    }
}

// the gradient that each tile's own outputs send to the sums before the tile
template <typename T>
__global__ void __launch_bounds__(THREADS) wkv_adjoints(
    const float* w, const float* u, const T* k, const T* v, const double* states, const T* grad,
    double* adjoints, int length, int channels) {
    const Place here = place(length, channels);
    if (here.count == 0) return;
    const float decay = w[here.channel], bonus = u[here.channel];
    Sums before[TILE];
    replay(read(states, here.tile, channels), decay, k, v, here, channels, before);
    Sums later = nothing();
#pragma unroll
    for (int t = TILE - 1; t >= 0; --t) {
        if (t >= here.count) continue;
        const long long at = here.at + t * channels;
        const Sums present = token(k, v, at);
        const Average out = average(before[t], bonus + present.p, present.a);
        later = merged(later, decay, pulled_back(out, static_cast<float>(grad[at])));
    }
    write(adjoints, here.tile, channels, later);
}

// gradients of k and v; of w and u what each tile contributes, (B, tiles, D)
template <typename T>
__global__ void __launch_bounds__(THREADS) wkv_gradients(
    const float* w, const float* u, const T* k, const T* v, const double* states,
    const double* adjoints, const T* grad, float* grad_w, float* grad_u, T* grad_k, T* grad_v,
    int length, int channels) {
    const Place here = place(length, channels);
    if (here.count == 0) return;
    const float decay = w[here.channel], bonus = u[here.channel];
    Sums before[TILE];
    replay(read(states, here.tile, channels), decay, k, v, here, channels, before);
    Sums later = read(adjoints, here.tile, channels);
    float of_w = 0, of_u = 0;
#pragma unroll
    for (int t = TILE - 1; t >= 0; --t) {
        if (t >= here.count) continue;
        const long long at = here.at + t * channels;
        const Sums present = token(k, v, at), past = before[t];
        const Average out = average(past, bonus + present.p, present.a);
        const Sums back = pulled_back(out, static_cast<float>(grad[at]));
        // through the token's own output, then through the sums that later outputs read
        const float own = out.present * (back.a * present.a + back.b);
        const float seen = power(present.p + later.p);
        grad_v[at] = T(out.present * back.a + seen * later.a);
        grad_k[at] = T(own + seen * (later.a * present.a + later.b));
        of_u += own;
        of_w -= power(past.p + later.p - decay) * (later.a * past.a + later.b * past.b);
        later = merged(later, decay, back);
    }
    const long long tile = static_cast<long long>(blockIdx.z) * gridDim.x + blockIdx.x;
    grad_w[tile * channels + here.channel] = of_w;
    grad_u[tile * channels + here.channel] = of_u;
}

// w, u (D) fp32; k, v, y (B, N, D) of the dtype; states (B, tiles, 3, D), begin and end (B, 3, D)
// fp64
extern "C" int wkv_forward(
    int dtype, const float* w, const float* u, const void* k, const void* v, const double* begin,
    double* states, double* end, void* y, int batch, int length, int channels, void* stream) {
    return by_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const T *keys = static_cast<const T*>(k), *values = static_cast<const T*>(v);
        const int tiles = blocks(length, TILE);
        const dim3 grid(tiles, blocks(channels, THREADS), batch);
        const dim3 carriers(blocks(channels, THREADS), batch);
        int error = launch(
            wkv_tiles<T>, grid, THREADS, stream, w, keys, values, states, length, channels);
        if (!error) error = launch(
            wkv_carry, carriers, THREADS, stream, w, begin, states, end, tiles, length, channels,
            false);
        if (!error) error = launch(
            wkv_outputs<T>, grid, THREADS, stream, w, u, keys, values, states, static_cast<T*>(y),
            length, channels);
        return error;
    });
}

// begin and end: gradients of the last state and of the first, as sums
extern "C" int wkv_backward(
    int dtype, const float* w, const float* u, const void* k, const void* v, const double* states,
    const void* grad, const double* begin, double* adjoints, double* end, float* grad_w,
    float* grad_u, void* grad_k, void* grad_v, int batch, int length, int channels, void* stream) {
    return by_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const T *keys = static_cast<const T*>(k), *values = static_cast<const T*>(v);
        const T* grads = static_cast<const T*>(grad);
        const int tiles = blocks(length, TILE);
        const dim3 grid(tiles, blocks(channels, THREADS), batch);
        const dim3 carriers(blocks(channels, THREADS), batch);
        int error = launch(
            wkv_adjoints<T>, grid, THREADS, stream, w, u, keys, values, states, grads, adjoints,
            length, channels);
        if (!error) error = launch(
            wkv_carry, carriers, THREADS, stream, w, begin, adjoints, end, tiles, length, channels,
            true);
        if (!error) error = launch(
            wkv_gradients<T>, grid, THREADS, stream, w, u, keys, values, states, adjoints, grads,
            grad_w, grad_u, static_cast<T*>(grad_k), static_cast<T*>(grad_v), length, channels);
        return error;
    });
}
