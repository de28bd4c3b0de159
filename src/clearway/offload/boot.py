"""Start a worker process without importing the application.

Run by its path, with `-P`: `import clearway` would bring in FastAPI and half a second of
start-up for a function that may need neither.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


class _Unopened(ModuleType):
    """The `clearway` package whose `__init__` runs when one of its names is first asked for."""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        if spec is None or spec.loader is None:
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary module from here on
        try:
            spec.loader.exec_module(self)
        except BaseException:
            self.__class__ = _Unopened  # the next import fails for the same reason, in words
            raise
        return getattr(self, name)


def _place(package: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        package.name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    module = _Unopened(package.name)
    module.__spec__ = spec
    module.__path__ = [str(package)]
    module.__file__ = spec.origin
    module.__package__ = package.name
    # touchpoint: worker-package - our own package, put in place unopened, in workers only
    sys.modules[package.name] = module


if __name__ == "__main__":
    _place(Path(__file__).resolve().parents[1])
    from clearway.offload.child import main

    main(*map(int, sys.argv[1:4]))
