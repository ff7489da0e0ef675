"""Our own CUDA kernels: compiled on first use with NVRTC, kept on disk, launched through the driver."""
