"""Settings that every test shares."""

import atexit
import os
import shutil
import tempfile

# Before JAX is imported, and in pytest's first process: its workers, and the programs that tests start, share what they
# compile. Half a minute of each process would go to compiling the same annealing step.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cmtjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import hypothesis
import jax

# Before anything asks for devices: what is sharded needs two.
jax.config.update("jax_num_cpu_devices", 2)

hypothesis.settings.register_profile("cmtjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("cmtjax")
