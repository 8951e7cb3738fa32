"""`models list`: list every weights file that the app can load, its model, and whether the instance has loaded it."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..models.versions import MODEL_FOLDERS
from ..operations import weights as operation
from ..operations.instance import observe
from ..operations.weights import Listed
from ..ui import text

_HEADINGS = ("FILE", "SIZE", "WHAT", "LOADED")
_RIGHT = frozenset((1,))


def run(context: Context) -> Report:
    """List the weights files of the app's own folders first, then those of the hub caches."""
    settings = context.settings
    # A folder of models without an app has no instance.
    instance = operation.instance_of(observe(settings)) if settings.script.exists() else operation.Instance()
    inventory = operation.inventory(context, instance)
    for line in inventory.changes():
        context.console.warn(line)
    files = [one.file for one in inventory.files]
    unknown = [one for one in files if not one.origin.known]
    if not files:
        context.console.warn(f"no weights files in the hub caches, {', '.join(MODEL_FOLDERS)} or APP_MODEL_DIRS")
    document = {
        "files": [one.document() for one in inventory.files],
        "unknown": len(unknown),
        "gone": list(inventory.gone),
        "size_bytes": sum({one.identity: one.status.st_size for one in files}.values()),
    }
    rows = [_HEADINGS, *map(_row, inventory.files)] if files else []
    hint = "start_app.py models lock --freeze pins them as they are" if unknown else None
    return Answer(text=context.console.table(rows, right=_RIGHT), data=document, hint=hint)


def _row(one: Listed) -> tuple[str, ...]:
    loaded = "yes" if one.loaded else "unknown"
    loaded = f"{loaded}, {one.change}" if one.change else loaded
    return one.file.name, text.size(one.file.status.st_size), one.file.origin.text(), loaded
