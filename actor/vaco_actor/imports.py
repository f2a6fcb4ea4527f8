"""Imports a manifest asks for, and suggestions for names it got wrong."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from vaco.errors import UserError

_PATH = "spec.task.imports"


def import_all(names: Iterable[str]) -> None:
    """Import modules by name and Python files by path (`*.py`), each only once.

    Raises:
        UserError: One is not there, or fails while it is imported.

    """
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                importlib.import_module(name)
        except Exception as error:
            kind = type(error).__name__
            raise UserError(_PATH, f"'{name}' cannot be imported: {kind}: {error}") from error


def _import_file(path: Path) -> None:
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return
    other = known or importlib.util.find_spec(path.stem)
    if other is not None and getattr(other, "origin", None) != str(path):
        raise ImportError(f"there is another module called {path.stem}; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Under its name, so that what it defines can be sent to worker processes.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
