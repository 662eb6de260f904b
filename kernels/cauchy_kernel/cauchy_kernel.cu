// K_l = sum_j v_j / (z_l - w_j) + conj(v_j) / (z_l - conj(w_j)), its derivative in z, and gradients.
//
// Legend: P sums that share their poles, rows (channels), J states, L nodes.
#include "device.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;
// states that lie in shared memory at a time, and sums that a thread makes at once
constexpr int STATES = 32, SUMS = 4;

__device__ float2 minus(float2 x, float2 y) { return {x.x - y.x, x.y - y.y}; }

__device__ float2 conj(float2 x) { return {x.x, -x.y}; }

// 1 / x, without overflow of |x|^2
__device__ float2 reciprocal(float2 x) {
    const float scale = 1 / fmaxf(fabsf(x.x), fabsf(x.y));
    x = {x.x * scale, x.y * scale};
    const float factor = scale / (x.x * x.x + x.y * x.y);
    return {x.x * factor, -x.y * factor};
}

// the fractions of a pole and of its conjugate at a node
struct Fractions {
    float2 pole, mirror;
};

__device__ Fractions fractions(float2 z, float2 w) {
    return {reciprocal(minus(z, w)), reciprocal(minus(z, conj(w)))};
}

__device__ Fractions squared(Fractions f) {
    return {times(f.pole, f.pole), times(f.mirror, f.mirror)};
}

// v f + conj(v) f'
__device__ float2 real_pair(float2 v, Fractions f) {
    return {
        v.x * (f.pole.x + f.mirror.x) - v.y * (f.pole.y - f.mirror.y),
        v.x * (f.pole.y + f.mirror.y) + v.y * (f.pole.x - f.mirror.x)};
}

// the gradient of v in real_pair: g conj(f) + conj(g) f'
__device__ float2 pulled_back(float2 g, Fractions f) {
    return {
        g.x * (f.pole.x + f.mirror.x) + g.y * (f.pole.y + f.mirror.y),
        g.y * (f.pole.x - f.mirror.x) - g.x * (f.pole.y - f.mirror.y)};
}

// a thread a node: K, or with SLOPE its derivative in z
template <bool SLOPE>
__global__ void __launch_bounds__(THREADS) cauchy_sums(
    const float2* v, const float2* z, const float2* w, float2* kernel, int sums, int rows,
    int states, int length) {
    const long long row = blockIdx.x;
    const int l = blockIdx.y * THREADS + threadIdx.x, first = blockIdx.z * SUMS;
    const float2 node = z[min(l, length - 1)];
    SHARED(float2, poles, [STATES]);
    SHARED(float2, residues, [SUMS][STATES]);
    float2 sum[SUMS] = {};
    for (int base = 0; base < states; base += STATES) {
        const int count = min(STATES, states - base);
        if (threadIdx.x < count) {
            const int j = base + threadIdx.x;
            poles[threadIdx.x] = w[row * states + j];
            for (int p = 0; p < SUMS; ++p) {
                const long long at = ((first + p) * static_cast<long long>(rows) + row) * states + j;
                residues[p][threadIdx.x] = first + p < sums ? v[at] : float2{0, 0};
            }
        }
        __syncthreads();
        for (int j = 0; j < count; ++j) {
            Fractions f = fractions(node, poles[j]);
            if (SLOPE) f = squared(f);
#pragma unroll
            for (int p = 0; p < SUMS; ++p) {
                const float2 x = real_pair(residues[p][j], f);
                sum[p] = {sum[p].x + x.x, sum[p].y + x.y};
            }
        }
        __syncthreads();
    }
    for (int p = 0; p < SUMS && l < length; ++p) {
        const long long at = ((first + p) * static_cast<long long>(rows) + row) * length + l;
        const float sign = SLOPE ? -1 : 1;
        if (first + p < sums) kernel[at] = {sign * sum[p].x, sign * sum[p].y};
    }
}

// a warp a state, its lanes side by side along the nodes
__global__ void __launch_bounds__(THREADS) cauchy_gradients(
    const float2* v, const float2* z, const float2* w, const float2* grad, float2* grad_v,
    float2* grad_w, int sums, int rows, int states, int length) {
    const long long row = blockIdx.x;
    const int lane = threadIdx.x % 32, state = blockIdx.y * WARPS + threadIdx.x / 32;
    const long long at = row * states + min(state, states - 1);
    const long long stride = static_cast<long long>(rows);
    const float2 pole = w[at];
    float2 of_w = {0, 0};
    for (int first = 0; first < sums; first += SUMS) {
        float2 of_v[SUMS] = {}, slope[SUMS] = {};
        for (int l = lane; l < length; l += 32) {
            const Fractions f = fractions(z[l], pole), square = squared(f);
#pragma unroll
            for (int p = 0; p < SUMS; ++p) {
                if (first + p >= sums) continue;
                const float2 g = grad[((first + p) * stride + row) * length + l];
                const float2 x = pulled_back(g, f), y = pulled_back(g, square);
                of_v[p] = {of_v[p].x + x.x, of_v[p].y + x.y};
                slope[p] = {slope[p].x + y.x, slope[p].y + y.y};
            }
        }
#pragma unroll
        for (int p = 0; p < SUMS; ++p) {
            const float2 x = {lanes_sum<32>(of_v[p].x), lanes_sum<32>(of_v[p].y)};
            const float2 y = {lanes_sum<32>(slope[p].x), lanes_sum<32>(slope[p].y)};
            if (first + p >= sums) continue;
            const long long mine = (first + p) * stride * states + at;
            const float2 turned = times(conj(v[mine]), y);
            of_w = {of_w.x + turned.x, of_w.y + turned.y};
            if (lane == 0 && state < states) grad_v[mine] = x;
        }
    }
    if (lane == 0 && state < states) grad_w[at] = of_w;
}

// v (P, rows, J), z (L), w (rows, J); kernel (P, rows, L); all complex64
extern "C" int cauchy_kernel_forward(
    const float2* v, const float2* z, const float2* w, float2* kernel, int sums, int rows,
    int states, int length, void* stream) {
    const dim3 grid(rows, blocks(length, THREADS), blocks(sums, SUMS));
    return launch(
        cauchy_sums<false>, grid, THREADS, stream, v, z, w, kernel, sums, rows, states, length);
}

// dK / dz
extern "C" int cauchy_kernel_slope(
    const float2* v, const float2* z, const float2* w, float2* slope, int sums, int rows,
    int states, int length, void* stream) {
    const dim3 grid(rows, blocks(length, THREADS), blocks(sums, SUMS));
    return launch(
        cauchy_sums<true>, grid, THREADS, stream, v, z, w, slope, sums, rows, states, length);
}

extern "C" int cauchy_kernel_backward(
    const float2* v, const float2* z, const float2* w, const float2* grad, float2* grad_v,
    float2* grad_w, int sums, int rows, int states, int length, void* stream) {
    const dim3 grid(rows, blocks(states, WARPS));
    return launch(
        cauchy_gradients, grid, THREADS, stream, v, z, w, grad, grad_v, grad_w, sums, rows, states,
        length);
}
