"""The few collective operations that training needs, and the one module that knows Horovod.

Upstream is in maintenance only: another collective library would take its place here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

# Entered while this rank waits for the others outside of a step.
waiting: Callable[[], AbstractContextManager[None]] = nullcontext


def start() -> None:
    _horovod().init()


def stop() -> None:
    _horovod().shutdown()


def rank() -> int:
    return int(_horovod().rank())


def size() -> int:
    return int(_horovod().size())


def local_rank() -> int:
    return int(_horovod().local_rank())


def gpus() -> list[str]:
    """The addresses of the GPUs that Spark gave the task of this rank."""
    from horovod.spark.task import get_available_devices

    return list(get_available_devices())


def add(tensors: Sequence[Any], name: str) -> list[Any]:
    """The sums over all ranks, as one operation that happens whole or not at all."""
    horovod = _horovod()
    with waiting():
        return list(horovod.grouped_allreduce(list(tensors), op=horovod.Sum, name=name))


def gather(tensor: Any, name: str) -> Any:
    """The tensors of all ranks, one below the other."""
    with waiting():
        return _horovod().allgather(tensor, name=name)


def broadcast(variables: Sequence[Any]) -> None:
    """Give every rank the values of rank 0; `variables` are TensorFlow's."""
    with waiting():
        _horovod().broadcast_variables(list(variables), root_rank=0)


def built_with() -> set[str]:
    """Of `gloo` and `nccl`, those that the Horovod of this environment was built with."""
    horovod = _horovod()
    return {name for name in ("gloo", "nccl") if getattr(horovod, f"{name}_built")()}


def _horovod() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import horovod.tensorflow

    return horovod.tensorflow
