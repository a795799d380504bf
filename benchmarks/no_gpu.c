/* What torch asks of a driver when it goes forward and backward over fake CUDA tensors on a machine without a GPU
   (benchmarks/gpu_dry_run.py): whether there is a device, which one is current, and for its attention how old it is.
   Nothing here computes anything.

       cc -shared -fPIC -o no_gpu.so no_gpu.c                                        comes first: LD_PRELOAD
       cc -shared -fPIC -DDRIVER -Wl,-soname,libcuda.so.1 -o libcuda.so.1 no_gpu.c   found in LD_LIBRARY_PATH */
#ifdef DRIVER
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = *active = 0; }
#else
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { return *device = 0; }
/* CUDA 13's cudaDeviceProp has `major` and `minor` at byte 360. An A100's, also for a T4, since torch asks only once: a
   mask, which is all that PyTorch's attention is given here, leaves the memory-efficient kernel on both. */
int cudaGetDeviceProperties(int *properties, int device) { properties[90] = 8, properties[91] = 0; return 0; }
int cudaSetDevice(int device) { return device; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0; }
int cudaStreamQuery(void *stream) { return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { return *status = 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = (void *)1; return 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) { return 0; }
int cudaEventQuery(void *event) { return 0; }
int cudaEventDestroy(void *event) { return 0; }
#endif
