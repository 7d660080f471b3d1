"""Arguments of Python users as the library takes them: paths and names are strings there too."""

from __future__ import annotations

from pathlib import Path
from typing import overload

from exporter.errors import InputError
from exporter.targets import Device, Precision


def path_of(path: str | Path | None) -> Path | None:
    """Return a path that may be given as a string."""
    return None if path is None else Path(path)


def device_of(name: str | None) -> Device | None:
    """Return a device by its name.

    Raises:
        InputError: There is no such device.
    """
    if name is not None and name not in list(Device):
        raise InputError(f"`device` is {name!r}", next_step=f"use one of {', '.join(Device)}")
    return None if name is None else Device(name)


@overload
def precision_of(option: str, value: str) -> Precision: ...
@overload
def precision_of(option: str, value: str | None) -> Precision | None: ...
def precision_of(option: str, value: str | None) -> Precision | None:
    """Return a precision by its name.

    Args:
        option: What the user calls the argument, for the message.
        value: The name.

    Raises:
        InputError: There is no such precision.
    """
    if value is not None and value not in list(Precision):
        raise InputError(f"`{option}` is {value!r}", next_step=f"use one of {', '.join(Precision)}")
    return None if value is None else Precision(value)
