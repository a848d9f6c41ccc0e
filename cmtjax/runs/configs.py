"""Nested configurations: checks, dotted keys, differences."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cmtjax.runs.files import to_json

_ABSENT = object()


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it reads after a round trip through JSON (tuples become lists).

    Raises:
      ValueError: if a value is no number, string, boolean, None, list or mapping of these.
    """
    return json.loads(to_json(dict(config)))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"method": {"batch_size": 1}}`` as ``{"method.batch_size": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe_differences(stored: Mapping[str, Any], given: Mapping[str, Any], changeable: Sequence[str]) -> list[str]:
    """One entry for every dotted key whose values differ, apart from those that match a pattern of ``changeable``.

    Args:
      stored: plain configuration of the run.
      given: plain configuration asked for.
      changeable: dotted keys, with shell wildcards as in ``"evaluation.*"``.
    """
    old, new = flatten(stored), flatten(given)

    def show(values: dict[str, Any], key: str) -> str:
        return json.dumps(values[key]) if key in values else "absent"

    return [
        f"{key}: {show(old, key)} in the run, {show(new, key)} asked for"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in changeable)
    ]
