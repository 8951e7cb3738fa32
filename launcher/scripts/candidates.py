"""Find the scripts of a folder that start a Gradio page: those that import gradio and launch one, the likeliest first.

A training script launches nothing. A script that only imports the module which launches is the candidate, if that
module does nothing when it is run itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from . import module as modules
from .folder import content, python_files
from .module import Glance, Launch, Module

_SECONDS = 0.3
_MOST_FILES = 5000
_MOST_PARSED = 120
_MOST_IMPORTED = 200
_NEAR = 3
_LIKELY = (
    "webui app gradio_app web_ui web_demo gradio_demo gradio_web gradio_ui demo ui launch web gui main run".split()
)
_UNLIKELY = re.compile(
    r"(^|[_-])(train|training|finetune|test|tests|eval|benchmark|example|examples|setup|convert)([_-]|$)"
)
_SIDE_FOLDERS = frozenset("test tests example examples docs doc scripts tools benchmark benchmarks third_party".split())
_OPENS = (b".launch(", b"uvicorn", b"hypercorn")


class Candidate(NamedTuple):
    """Hold a script that starts a page.

    `launch` is the call that opens it, in the script or in a module that it imports: `launched_in` is that file.
    `modules` are the script and the app's own files that it imports.
    """

    path: Path
    script: Module
    launch: Launch
    launched_in: Path
    modules: tuple[Module, ...]

    @property
    def reason(self) -> str:
        """Return in words why it is a candidate."""
        where = f"in line {self.launch.line}"
        if self.launched_in == self.path:
            return f"imports gradio and launches a page {where}"
        return f"imports {self.launched_in.name}, which launches a page {where}"


class Folder:
    """Hold an app's folder, and read its files on demand, each once."""

    def __init__(self, app_dir: Path) -> None:
        self.app_dir = app_dir
        self._modules: dict[Path, Module | None] = {}
        self._glances: dict[Path, Glance] = {}
        self._deadline = time.monotonic() + _SECONDS

    @cached_property
    def files(self) -> Sequence[Path]:
        """Return the Python files of the folder, those nearest to its top first."""
        return [path for path, _ in zip(python_files(self.app_dir), range(_MOST_FILES), strict=False)]

    def module(self, path: Path, data: bytes | None = None) -> Module | None:
        """Return the facts in a file, None if it cannot be read or no time is left."""
        if path not in self._modules:
            late = time.monotonic() > self._deadline or len(self._modules) >= _MOST_PARSED
            if late and len(path.relative_to(self.app_dir).parts) > 1:
                return None
            self._modules[path] = modules.read(path, data)
        return self._modules[path]

    def _glance(self, path: Path) -> Glance:
        if path not in self._glances:
            self._glances[path] = modules.glance(content(path))
        return self._glances[path]

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the scripts that start a page, the likeliest first."""
        pages = dict(self._pages())
        # A launch in a function is started by the script that imports and calls the function.
        called = [path for path, module in pages.items() if any(launch.function for launch in module.launches)]
        names = {path.stem if path.stem != "__init__" else path.parent.name for path in called}
        importers = (path for path in self._running(names) if path not in pages)
        scripts = [*(path for path, module in pages.items() if module.runs), *importers]
        made = [candidate for path in scripts if (candidate := self.candidate(path))]
        if not made:  # a page that only another entry can start, such as a console script
            made = [candidate for path in pages if (candidate := self.candidate(path))]
        return tuple(sorted(made, key=self._rank))

    def candidate(self, path: Path) -> Candidate | None:
        """Return a script as a candidate, None if neither it nor its imports open a Gradio page."""
        script = self.module(path)
        if script is None:
            return None
        closure = tuple(self._closure(script))
        if not any(module.gradio for module in closure):
            return None
        opened = next((module for module in closure if module.launches), None)
        if opened is None:
            return None
        return Candidate(path, script, opened.launches[0], opened.path, closure)

    def _pages(self) -> Iterator[tuple[Path, Module]]:
        """Yield the files with a launch."""
        for path in self.files:
            data = content(path)
            if any(word in data for word in _OPENS):
                module = self.module(path, data)
                if module and module.launches and (module.gradio or self._gradio(module)):
                    yield path, module

    def _running(self, names: set[str]) -> Iterator[Path]:
        """Yield the files that do something when they are run, and import one of these modules."""
        near = [path for path in self.files if len(path.relative_to(self.app_dir).parts) <= _NEAR]
        for path in near if names else ():
            imported = {part for name in self._glance(path).imports for part in name.split(".")}
            if not names.isdisjoint(imported):
                module = self.module(path)
                if module and module.runs:
                    yield path

    def _gradio(self, module: Module) -> bool:
        return any(imported.gradio for imported in self._closure(module))

    def _closure(self, script: Module) -> Iterator[Module]:
        """Yield a script and those of the app's own modules that it imports and that may tell something."""
        yield script
        pending, seen = [(script.path, script.imports)], {script.path}
        while pending and len(seen) <= _MOST_IMPORTED:
            importer, names = pending.pop(0)
            for name in names:
                path = self._local(name, importer, script.path.parent)
                if path is None or path in seen:
                    continue
                seen.add(path)
                glance = self._glance(path)
                pending.append((path, glance.imports))
                module = self.module(path) if glance.telling else None
                if module:
                    yield module

    def _local(self, name: str, importer: Path, script_folder: Path) -> Path | None:
        """Return the app's file for an import, or None."""
        bare = name.lstrip(".")
        dots = len(name) - len(bare)
        if dots:
            folders = [importer.parents[min(dots, len(importer.parents)) - 1]]
        else:
            folders = [script_folder, self.app_dir, self.app_dir / "src"]
        for folder in folders:
            base = folder.joinpath(*bare.split("."))
            for path in (base.with_name(f"{base.name}.py"), base / "__init__.py") if bare else (base / "__init__.py",):
                if self._is_known(path):
                    return path
        return None

    def _is_known(self, path: Path) -> bool:
        return path in self._known

    @cached_property
    def _known(self) -> frozenset[Path]:
        return frozenset(self.files)

    def _rank(self, candidate: Candidate) -> tuple[int | str | bool, ...]:
        parts = candidate.path.relative_to(self.app_dir).parts
        name = candidate.path.stem.lower() if candidate.path.stem != "__main__" else candidate.path.parent.name.lower()
        return (
            bool(_UNLIKELY.search(name)),
            not _SIDE_FOLDERS.isdisjoint(parts[:-1]),
            not candidate.script.runs,
            len(parts),
            _LIKELY.index(name) if name in _LIKELY else len(_LIKELY),
            str(candidate.path),
        )

    def entry(self, path: Path) -> str:
        """Return how `APP_SCRIPT` names a file: by its path, or as a module if its path alone does not run."""
        parts = path.relative_to(self.app_dir).parts
        module = self.module(path)
        name = ".".join((*parts[:-1], path.stem)) if path.stem != "__main__" else ".".join(parts[:-1])
        importable = all(part.isidentifier() for part in name.split("."))
        if len(parts) > 1 and importable and module and self._needs_package(module):
            return f"-m {name}"
        return "/".join(parts)

    def _needs_package(self, module: Module) -> bool:
        """Return whether a file below the app's folder imports from its package, or from the app's folder itself."""
        if module.relative:
            return True
        for name in module.imports:
            first = name.split(".")[0]
            beside = any(self._is_known(module.path.parent / name) for name in (f"{first}.py", f"{first}/__init__.py"))
            above = any(self._is_known(self.app_dir / name) for name in (f"{first}.py", f"{first}/__init__.py"))
            if above and not beside:
                return True
        return False
