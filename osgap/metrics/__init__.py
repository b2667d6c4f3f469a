"""PSNR, SSIM and LPIPS, with their kernels."""
