"""Settings that every test shares."""

import os

import hypothesis
import jax

# Before anything asks for devices: what is sharded needs two.
jax.config.update("jax_num_cpu_devices", 2)

# Most of the time goes to compiling, and half of that to LLVM's optimizations. Processes that tests start inherit
# this; what is set from outside is kept, as in `XLA_FLAGS= pytest` to test the programs that users run. XLA ends a
# process over a flag it does not know, hence only where it was tried. (Without XLA's emitters for fusions,
# xla_cpu_use_fusion_emitters=false, compiling is faster still, but with level 0 second derivatives come out wrong.)
if jax.__version_info__[:2] == (0, 10):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

hypothesis.settings.register_profile("cmtjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("cmtjax")
