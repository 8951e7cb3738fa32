"""Find a setting's source: flag > environment > `.env` > default, the highest level that has it.

A blank is unset at its level, so the next one counts. A `.env` of another user is a level of its own, "foreign": the
app gets its values, but they decide nothing for the user of the launcher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..errors import ExitStatus
from .env_file import EnvFile
from .paths import expand

FLAGS = {
    "APP_DIR": "--app-dir",
    "APP_PYTHON": "--python",
    "GRADIO_SERVER_PORT": "--port",
    "GRADIO_SERVER_NAME": "--host",
    "APP_LOCKED": "--locked",
}

Level = Literal["flag", "environment", "file", "foreign", "default"]


class Setting(NamedTuple):
    """Hold a value and its source."""

    value: str
    origin: str
    level: Level

    @property
    def bad(self) -> ExitStatus:
        """Return the exit status for an invalid value from this level."""
        return ExitStatus.USAGE if self.level == "flag" else ExitStatus.CONFIG


class Sources(NamedTuple):
    """Hold the levels of a setting, highest first."""

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    file: EnvFile | None

    def find(self, name: str, default: str | None = None) -> Setting | None:
        """Return the setting of the highest level that has it."""
        return self._flag(name) or self._environment(name) or self._file(name) or self._default(default)

    def _flag(self, name: str) -> Setting | None:
        value = self.flags.get(name, "")
        return Setting(value, FLAGS[name], "flag") if value.strip() else None

    def _environment(self, name: str) -> Setting | None:
        value = self.environ.get(name)
        if value is None or not (value.strip() or blank_counts(name, value)):
            return None
        return Setting(value, "environment", "environment")

    def _file(self, name: str) -> Setting | None:
        value = self.file.values.get(name, "") if self.file else ""
        return self.of_file(name, value) if value.strip() else None

    def of_file(self, name: str, value: str) -> Setting:
        """Return a value as the setting of this name in the `.env`."""
        assert self.file
        origin = f"{self.file.path.name} line {self.file.lines[name]}"
        return Setting(value, origin, "file" if self.file.owner is None else "foreign")

    @staticmethod
    def _default(value: str | None) -> Setting | None:
        return None if value is None else Setting(value, "default", "default")

    def expand(self, value: str) -> str:
        """Expand `~` and `$NAME` as huggingface_hub would, from these sources and not from our own environment."""
        return expand(value, self._value, self.environ.get("HOME", "").strip())

    def _value(self, name: str) -> str | None:
        setting = self.find(name)
        return setting.value if setting else None


def blank_counts(name: str, value: str | None) -> bool:
    """Return whether a blank is a value: `CUDA_VISIBLE_DEVICES= python …` is the usual way to hide every GPU."""
    return value is not None and name.endswith("_VISIBLE_DEVICES")
