"""Normalizing flows on the unit box."""

from typing import Any

from cmtjax.flows.base import BoxBase
from cmtjax.flows.flow import Flow, spline_flow

__all__ = ["BoxBase", "Flow", "FlowDistribution", "spline_flow"]


def __getattr__(name: str) -> Any:
    # distrax brings tensorflow-probability, seconds of import time that only its users should pay.
    if name == "FlowDistribution":
        from cmtjax.flows.distribution import FlowDistribution

        return FlowDistribution
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
