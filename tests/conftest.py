"""Settings that every test shares."""

import os

import hypothesis
import jax

# Before anything asks for devices: what is sharded needs two.
jax.config.update("jax_num_cpu_devices", 2)

# Most of the time goes to compiling, two thirds of which are LLVM's optimizations and the code for fused operations.
# Processes that tests start inherit it. XLA ends a process over a flag it does not know, hence only where they were
# tried; what is set from outside is kept, as in `XLA_FLAGS= pytest` to test what users run.
if jax.__version_info__[:2] == (0, 10):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

hypothesis.settings.register_profile("cmtjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("cmtjax")
