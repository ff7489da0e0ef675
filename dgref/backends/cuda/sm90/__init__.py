"""Our kernels for Hopper (sm_90a): which configuration a shape gets, and the launches."""
