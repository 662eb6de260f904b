// K_l = 2 Re sum_j c_j a_j^l and its gradients.
//
// Legend: rows (channels, directions), J states, L length. A power is computed afresh at a stretch
// of positions and then advanced by a few multiplications.
#include "device.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
// forward: positions of a thread, THREADS apart, and states that lie in shared memory at a time
constexpr int POSITIONS = 8, STATES = 32;
// backward: positions that lie in shared memory at a time
constexpr int SPAN = 256;

// logarithm of a: size, and phase as a fraction of a turn in 2^-64. Integers wrap as phases do, so
// l times the phase is exact for every l.
struct Logarithm {
    float size;
    unsigned long long turn;
};

__device__ Logarithm logarithm(float2 log_a) {
    const double turns = log_a.y * 0.15915494309189535;
    const double fraction = turns - floor(turns);
    // a size of -inf times l = 0 is not a number; e^-1e4 is 0
    const float size = log_a.x < -1e4f ? -1e4f : log_a.x;
    // no integer says NaN
    if (!(fabsf(log_a.y) < INFINITY)) return {NAN, 0};
    return {size, fraction < 1 ? static_cast<unsigned long long>(fraction * 0x1p64) : 0};
}

__device__ float2 power(Logarithm log_a, int l) {
    const long long phase = static_cast<long long>(log_a.turn * static_cast<unsigned>(l));
    float sine, cosine;
    sincospif(static_cast<float>(phase) * 0x1p-63f, &sine, &cosine);
    const float size = expf(log_a.size * static_cast<float>(l));
    return {size * cosine, size * sine};
}

struct Term {
    float2 c, jump;
    Logarithm log_a;
};

__global__ void __launch_bounds__(THREADS) vandermonde_forward(
    const float2* c, const float2* log_a, float* kernel, int states, int length) {
    const long long row = blockIdx.x;
    const int first = blockIdx.y * THREADS * POSITIONS + threadIdx.x;
    SHARED(Term, terms, [STATES]);
    float sum[POSITIONS] = {};
    for (int base = 0; base < states; base += STATES) {
        const int count = min(STATES, states - base);
        if (threadIdx.x < count) {
            const long long at = row * states + base + threadIdx.x;
            const Logarithm log = logarithm(log_a[at]);
            terms[threadIdx.x] = {c[at], power(log, THREADS), log};
        }
        __syncthreads();
        for (int j = 0; j < count; ++j) {
            const Term term = terms[j];
            float2 x = times(term.c, power(term.log_a, first));
#pragma unroll
            for (int i = 0; i < POSITIONS; ++i) {
                sum[i] += x.x;
                x = times(x, term.jump);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < POSITIONS; ++i) {
        const int l = first + i * THREADS;
        if (l < length) kernel[row * length + l] = 2 * sum[i];
    }
}

// a warp a state, its lanes side by side along the length
__global__ void __launch_bounds__(THREADS) vandermonde_backward(
    const float2* c, const float2* log_a, const float* grad, float2* grad_c, float2* grad_log_a,
    int states, int length) {
    const long long row = blockIdx.x;
    const int lane = threadIdx.x % 32, state = blockIdx.y * WARPS + threadIdx.x / 32;
    const long long at = row * states + min(state, states - 1);
    const Logarithm log = logarithm(log_a[at]);
    const float2 jump = power(log, 32);
    SHARED(float, span, [SPAN]);
    // sums of g_l a^l and l g_l a^l
    float2 plain = {0, 0}, weighted = {0, 0};
    for (int base = 0; base < length; base += SPAN) {
        const int count = min(SPAN, length - base);
        for (int i = threadIdx.x; i < count; i += THREADS) span[i] = grad[row * length + base + i];
        __syncthreads();
        float2 x = power(log, base + lane);
        for (int i = lane; i < count; i += 32) {
            const float g = span[i], lg = g * static_cast<float>(base + i);
            plain = {plain.x + g * x.x, plain.y + g * x.y};
            weighted = {weighted.x + lg * x.x, weighted.y + lg * x.y};
            x = times(x, jump);
        }
        __syncthreads();
    }
    plain = {lanes_sum<32>(plain.x), lanes_sum<32>(plain.y)};
    weighted = {lanes_sum<32>(weighted.x), lanes_sum<32>(weighted.y)};
    if (lane == 0 && state < states) {
        const float2 slope = times(c[at], weighted);
        grad_c[at] = {2 * plain.x, -2 * plain.y};
        grad_log_a[at] = {2 * slope.x, -2 * slope.y};
    }
}

// c, log_a (rows, J) complex64; kernel (rows, L) fp32
extern "C" int vandermonde_kernel_forward(
    const float2* c, const float2* log_a, float* kernel, int rows, int states, int length,
    void* stream) {
    const dim3 grid(rows, blocks(length, THREADS * POSITIONS));
    return launch(vandermonde_forward, grid, THREADS, stream, c, log_a, kernel, states, length);
}

extern "C" int vandermonde_kernel_backward(
    const float2* c, const float2* log_a, const float* grad, float2* grad_c, float2* grad_log_a,
    int rows, int states, int length, void* stream) {
    const dim3 grid(rows, blocks(states, WARPS));
    return launch(
        vandermonde_backward, grid, THREADS, stream, c, log_a, grad, grad_c, grad_log_a, states,
        length);
}
