// What every CUDA source of ours shares: element types by number, launching, sums over lanes.
//
// A source includes no header of torch: it has launchers with C linkage that take pointers, sizes
// and a stream, and return 0 or CUDA's error. It is also built by g++ where something else has
// defined what nvcc has built in, SHARED and launch (tests do, to run kernels on the CPU): so it
// keeps to threads in one dimension, SHARED, __syncthreads and the functions below.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// an array that the threads of a block share: SHARED(float, tile, [4][32]);
#define SHARED(type, name, ...) __shared__ type name __VA_ARGS__

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void* stream, Arguments... given) {
    kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<Parameters>(given)...);
    return cudaGetLastError();
}
#endif

// f of a zero of the element type: 0 float, 1 half, 2 bfloat16
template <typename Function>
int by_dtype(int dtype, Function f) {
    switch (dtype) {
        case 1: return f(__half(0.0f));
        case 2: return f(__nv_bfloat16(0.0f));
        default: return f(0.0f);
    }
}

__host__ __device__ inline int blocks(int count, int size) { return (count + size - 1) / size; }

// the sum over LANES neighbours of a warp, in every one of them; all lanes of the warp take part
template <int LANES>
__device__ float lanes_sum(float x) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    }
    return x;
}

__device__ float2 times(float2 x, float2 y) {
    return {x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x};
}
