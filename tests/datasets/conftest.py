"""The published molecules, built once per test process."""

import functools

import pytest

from cmtjax import molecules


@functools.cache
def _published(name):
    return molecules.published(name)


@pytest.fixture(scope="session")
def published():
    return _published
