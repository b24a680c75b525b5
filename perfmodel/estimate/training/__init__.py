"""Training: seconds and bytes of one optimizer step, from kernels to whole plans."""
