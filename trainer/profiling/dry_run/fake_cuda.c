/* A CUDA runtime and driver without a GPU, to be preloaded.

   With it torch sees one device. Streams, events and memory exist and do nothing. A kernel launch is accepted and
   ignored, so it is of use only for tensors without data (torch's FakeTensors). Every function has the interface of the
   CUDA headers that Triton ships. The compiler therefore finds a change of an interface. */
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The headers map these names to versioned symbols. Torch asks for the plain ones. */
#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo

#define API __attribute__((visibility("default")))
#define SUCCEEDS(name, ...) API cudaError_t name(__VA_ARGS__) { return cudaSuccess; }
#define DRIVER_SUCCEEDS(name, ...) API CUresult name(__VA_ARGS__) { return CUDA_SUCCESS; }

static const char *NAME = "NVIDIA H100 80GB HBM3 (dry run)";
static const size_t MEMORY = 80UL << 30;
enum { MAJOR = 9, MINOR = 0, PROCESSORS = 132, WARP = 32, THREADS = 1024, SHARED = 49152, SHARED_OPTIN = 232448 };

/* Devices */

SUCCEEDS(cudaSetDevice, int device)
SUCCEEDS(cudaInitDevice, int device, unsigned device_flags, unsigned flags)
SUCCEEDS(cudaGetLastError, void)
SUCCEEDS(cudaPeekAtLastError, void)
SUCCEEDS(cudaDeviceSynchronize, void)
SUCCEEDS(cudaDeviceEnablePeerAccess, int peer, unsigned flags)
SUCCEEDS(cudaProfilerStart, void)
SUCCEEDS(cudaProfilerStop, void)

API cudaError_t cudaGetDeviceCount(int *count) { *count = 1; return cudaSuccess; }
API cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int *version) { *version = CUDA_VERSION; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return cudaSuccess; }

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, NAME);
  found->totalGlobalMem = MEMORY;
  found->major = MAJOR;
  found->minor = MINOR;
  found->multiProcessorCount = PROCESSORS;
  found->warpSize = WARP;
  found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = THREADS;
  found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->maxThreadsPerMultiProcessor = 2 * THREADS;
  found->sharedMemPerBlock = SHARED;
  found->sharedMemPerBlockOptin = found->sharedMemPerMultiprocessor = SHARED_OPTIN;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->l2CacheSize = 50 << 20;
  found->unifiedAddressing = found->canMapHostMemory = found->concurrentKernels = found->cooperativeLaunch = 1;
  found->streamPrioritiesSupported = 1;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = MAJOR; break;
    case cudaDevAttrComputeCapabilityMinor: *value = MINOR; break;
    case cudaDevAttrMultiProcessorCount: *value = PROCESSORS; break;
    case cudaDevAttrWarpSize: *value = WARP; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = THREADS; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2 * THREADS; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = SHARED; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_OPTIN; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
  snprintf(text, length, "0000:01:00.0");
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}

/* Streams and events */

static void *handle(void) { return calloc(1, 64); }

API cudaError_t cudaStreamCreate(cudaStream_t *stream) { *stream = handle(); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaStreamCreate(stream); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  return cudaStreamCreate(stream);
}
API cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) { *priority = 0; return cudaSuccess; }
SUCCEEDS(cudaStreamDestroy, cudaStream_t stream)
SUCCEEDS(cudaStreamQuery, cudaStream_t stream)
SUCCEEDS(cudaStreamSynchronize, cudaStream_t stream)
SUCCEEDS(cudaStreamWaitEvent, cudaStream_t stream, cudaEvent_t event, unsigned flags)
SUCCEEDS(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode)

API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                         unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                         const cudaGraphEdgeData **edges, size_t *count) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}

API cudaError_t cudaEventCreate(cudaEvent_t *event) { *event = handle(); return cudaSuccess; }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return cudaEventCreate(event); }
SUCCEEDS(cudaEventDestroy, cudaEvent_t event)
SUCCEEDS(cudaEventRecord, cudaEvent_t event, cudaStream_t stream)
SUCCEEDS(cudaEventRecordWithFlags, cudaEvent_t event, cudaStream_t stream, unsigned flags)
SUCCEEDS(cudaEventQuery, cudaEvent_t event)
SUCCEEDS(cudaEventSynchronize, cudaEvent_t event)
API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) { *ms = 0; return cudaSuccess; }

/* Memory: device memory is host memory. */

API cudaError_t cudaMalloc(void **place, size_t size) {
  return posix_memalign(place, 512, size ? size : 512) ? cudaErrorMemoryAllocation : cudaSuccess;
}
API cudaError_t cudaFree(void *place) { free(place); return cudaSuccess; }
API cudaError_t cudaMallocAsync(void **place, size_t size, cudaStream_t stream) { return cudaMalloc(place, size); }
API cudaError_t cudaFreeAsync(void *place, cudaStream_t stream) { return cudaFree(place); }
API cudaError_t cudaHostAlloc(void **place, size_t size, unsigned flags) { return cudaMalloc(place, size); }
API cudaError_t cudaFreeHost(void *place) { return cudaFree(place); }
SUCCEEDS(cudaHostRegister, void *place, size_t size, unsigned flags)
SUCCEEDS(cudaHostUnregister, void *place)
API cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
  *device = host;
  return cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  *available = *total = MEMORY;
  return cudaSuccess;
}
API cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  memcpy(to, from, size);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy(to, from, size, kind);
}
API cudaError_t cudaMemset(void *place, int value, size_t size) { memset(place, value, size); return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void *place, int value, size_t size, cudaStream_t stream) {
  return cudaMemset(place, value, size);
}
API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *place) {
  memset(found, 0, sizeof *found);
  found->type = cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) { *pool = handle(); return cudaSuccess; }
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
  *(unsigned long long *)value = 0;
  return cudaSuccess;
}
SUCCEEDS(cudaMemPoolSetAttribute, cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
SUCCEEDS(cudaMemPoolTrimTo, cudaMemPool_t pool, size_t size)

/* Kernels */

SUCCEEDS(cudaLaunchKernel, const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t s)
SUCCEEDS(__cudaLaunchKernel, cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t s)
SUCCEEDS(cudaLaunchKernelExC, const cudaLaunchConfig_t *config, const void *kernel, void **arguments)
SUCCEEDS(cudaLaunchCooperativeKernel, const void *kernel, dim3 g, dim3 b, void **arguments, size_t shared, cudaStream_t s)
API cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}
API char __cudaInitModule(void **module) { return 1; }

/* The driver */

static char context;

DRIVER_SUCCEEDS(cuInit, unsigned flags)
DRIVER_SUCCEEDS(cuCtxSetCurrent, CUcontext set)
API CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int *count) { *count = 1; return CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice *device, int index) { *device = index; return CUDA_SUCCESS; }
API CUresult cuDeviceGetName(char *text, int length, CUdevice device) {
  snprintf(text, length, "%s", NAME);
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  return (CUresult)cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)attribute, device);
}
API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *found, CUdevice device) {
  *found = (CUcontext)&context;
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext *found) { *found = (CUcontext)&context; return CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult error, const char **text) { *text = "dry run"; return CUDA_SUCCESS; }

/* Torch looks these up when it is loaded. Whatever calls one is told that it is not supported. */
static CUresult not_supported(void) { return CUDA_ERROR_NOT_SUPPORTED; }
#define NOT_SUPPORTED(name) extern __typeof__(name) name __attribute__((alias("not_supported"), visibility("default")));
API cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                                 unsigned long long flags,
                                                 enum cudaDriverEntryPointQueryResult *result) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (!*function) *function = (void *)not_supported;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
NOT_SUPPORTED(cuCtxGetDevice)
NOT_SUPPORTED(cuCtxPopCurrent)
NOT_SUPPORTED(cuCtxPushCurrent)
NOT_SUPPORTED(cuDeviceGetUuid)
NOT_SUPPORTED(cuDeviceTotalMem)
NOT_SUPPORTED(cuFuncGetAttribute)
NOT_SUPPORTED(cuFuncSetAttribute)
NOT_SUPPORTED(cuFuncSetCacheConfig)
NOT_SUPPORTED(cuGetErrorName)
NOT_SUPPORTED(cuGetProcAddress)
NOT_SUPPORTED(cuLaunchCooperativeKernel)
NOT_SUPPORTED(cuLaunchKernel)
NOT_SUPPORTED(cuLinkAddData)
NOT_SUPPORTED(cuLinkComplete)
NOT_SUPPORTED(cuLinkCreate)
NOT_SUPPORTED(cuMemAddressFree)
NOT_SUPPORTED(cuMemAddressReserve)
NOT_SUPPORTED(cuMemCreate)
NOT_SUPPORTED(cuMemExportToShareableHandle)
NOT_SUPPORTED(cuMemGetAddressRange)
NOT_SUPPORTED(cuMemGetAllocationGranularity)
NOT_SUPPORTED(cuMemMap)
NOT_SUPPORTED(cuMemRelease)
NOT_SUPPORTED(cuMemSetAccess)
NOT_SUPPORTED(cuMemUnmap)
NOT_SUPPORTED(cuMemsetD32Async)
NOT_SUPPORTED(cuModuleGetFunction)
NOT_SUPPORTED(cuModuleLoad)
NOT_SUPPORTED(cuModuleLoadData)
NOT_SUPPORTED(cuModuleLoadDataEx)
NOT_SUPPORTED(cuModuleUnload)
NOT_SUPPORTED(cuMulticastAddDevice)
NOT_SUPPORTED(cuMulticastBindMem)
NOT_SUPPORTED(cuMulticastCreate)
NOT_SUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOT_SUPPORTED(cuPointerGetAttribute)
NOT_SUPPORTED(cuStreamGetCtx)
NOT_SUPPORTED(cuStreamWriteValue32)
NOT_SUPPORTED(cuTensorMapEncodeTiled)
