"""Settings that every test shares."""

import hypothesis
import jax

# Before anything asks for devices: what is sharded needs two.
jax.config.update("jax_num_cpu_devices", 2)

hypothesis.settings.register_profile("cmtjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("cmtjax")
