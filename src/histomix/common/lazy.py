"""Packages whose names are loaded when they are first asked for, so that a verb pays for what it uses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    """A package that loads a name with the module that has it."""

    _homes: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{self._homes[name]}", self.__name__), name)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # A module is set as an attribute of its package once it is imported: it must not hide a function of its name.
        if not (isinstance(value, ModuleType) and name in self._homes):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def load_on_use(package: str, homes: Mapping[str, str]) -> None:
    """Make a package load its names on first use.

    Parameters
    ----------
    package
        Its ``__name__``.
    homes
        Name -> the module under the package that has it.
    """
    module = sys.modules[package]
    module.__dict__["_homes"] = dict(homes)
    module.__class__ = _Lazy
