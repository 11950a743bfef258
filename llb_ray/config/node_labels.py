"""Label selectors: which nodes of a cluster a worker may run on, in the syntax of Ray and Kubernetes."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:[a-z0-9](?:[a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}")
_VALUE = re.compile(rf"!?{_NAME}|!?in\({_NAME}(?:, ?{_NAME})*\)")


def _checked(selector: Mapping[str, str]) -> dict[str, str]:
    """The selector; raises ValueError for a key or a value that Ray would refuse after the cluster was started."""
    for key, value in selector.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no label's name; write it as `ray status -v` does, as in ray.io/market-type")
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"{value!r} is no value of label {key}; write a value, !VALUE, in(VALUE, VALUE) or !in(VALUE, VALUE)"
            )
    return dict(selector)


NodeLabels = Annotated[dict[str, str], AfterValidator(_checked)]
