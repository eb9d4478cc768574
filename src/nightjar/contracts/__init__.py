"""The contracts of what Nightjar itself keeps for readers."""

from __future__ import annotations

import functools
from importlib import resources

from nightjar.core.contract import Contract, load_contract


@functools.cache
def own_contract(name: str) -> Contract:
    """The contract of one of Nightjar's own tables, by its dataset's name."""
    file = resources.files(__name__) / f"{name}.odcs.yaml"
    with resources.as_file(file) as path:
        return load_contract(path)
