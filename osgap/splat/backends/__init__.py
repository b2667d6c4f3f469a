"""What renders: numba on the CPU, gsplat or diff_gauss on CUDA."""
