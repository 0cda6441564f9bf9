"""A dry run of the CUDA step on a machine without a GPU: what it waits for, sends, launches, moves and holds.

The real method, engine, DeepSpeed and optimizer run on torch's FakeTensors of device `cuda`, which have no data. The
preloaded library of `fake_cuda.c` stands for the CUDA runtime. Nothing is computed and no time is measured.

A dry run does not see waits inside libraries, branches on values of tensors, deadlocks, or results of kernels.
"""
