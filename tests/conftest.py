"""Settings that every test shares."""

import hypothesis

hypothesis.settings.register_profile("cmtjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("cmtjax")
