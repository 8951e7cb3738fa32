"""A small text-to-speech app's page: which model runs in this process, and what lies in the model cache.

It stands for the reader's own web UI, so it does as they do: it reads the model through huggingface_hub before the
port opens, rejects options it does not know, and knows nothing of the launcher that may have started it.

    python webui.py --port 7860
"""

from __future__ import annotations

import argparse
import html
import json
import math
import mmap
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

NEWEST_FIRST = ("koge/index-tts-v23", "koge/index-tts-v22")
DEFAULT_PORT = 7860
DEFAULT_FOLDER = "start_app_demo"
COLUMNS = ["repo", "refs", "commit", "size"]
RUNNING, IDLE = "running here", "not loaded"
# The page keeps to the reader's own fonts: nothing is fetched from outside.
FONT = ("system-ui", "Segoe UI", "Noto Sans", "Liberation Sans", "sans-serif")
FONT_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")
HERE = Path(__file__).resolve().parent
HUB = HERE / "hub"


class DamagedModelError(Exception):
    """Tell which file of which model cannot be loaded, and why."""


@dataclass(frozen=True, slots=True)
class Model:
    """Hold what the app loaded: where it came from and what it can do."""

    repo: str
    commit: str
    version: str
    emotions: tuple[str, ...]
    tensors: int
    parameters: int
    weights: mmap.mmap

    @property
    def name(self) -> str:
        """Name the model as every message does: repo @ seven digits of its commit."""
        return f"{self.repo} @ {self.commit[:7]}"


@dataclass(frozen=True, slots=True)
class CachedRevision:
    """Hold one revision of one repo in the cache; `size` in bytes."""

    repo: str
    refs: tuple[str, ...]
    commit: str
    size: int


def load_newest_model() -> Model | None:
    """Load the newest of our models that is in the cache; None when there is none.

    Raises DamagedModelError when its files cannot be what they should: an app that goes on would play the old voice.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for repo in NEWEST_FIRST:
        try:
            snapshot = Path(snapshot_download(repo, local_files_only=True))
        except LocalEntryNotFoundError as error:
            # huggingface_hub 1.22 and later know when a part is missing; that is not "not in the cache".
            if getattr(error, "snapshot_path", None) is not None:
                raise DamagedModelError(f"{repo}: {error}") from error
            continue
        return _load(repo, snapshot)
    return None


def _load(repo: str, snapshot: Path) -> Model:
    path = snapshot / "config.json"
    try:
        config = json.loads(path.read_bytes())
        path = snapshot / "model.safetensors"
        # As the safetensors library does: whoever looks at the process from outside sees what it has loaded.
        with path.open("rb") as file:
            weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        shapes = _tensor_shapes(weights)
        return Model(
            repo=repo,
            commit=snapshot.name,
            version=str(config["version"]),
            emotions=tuple(config.get("emotion", {}).get("dimensions", ())),
            tensors=len(shapes),
            parameters=sum(math.prod(shape) for shape in shapes),
            weights=weights,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedModelError(f"{repo} @ {snapshot.name[:7]}: cannot load {path.name}: {error}") from error


def _tensor_shapes(weights: mmap.mmap) -> list[list[int]]:
    """Read a safetensors header and check that the file is as long as it says.

    https://github.com/huggingface/safetensors#format
    """
    size = len(weights)
    head_size = int.from_bytes(weights[:8], "little")
    if head_size > size - 8:
        raise ValueError(f"the header ends at byte {head_size + 8}, the file at {size}")
    header = json.loads(weights[8 : 8 + head_size])
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + head_size + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    if size != expected:
        raise ValueError(f"{size} bytes where the header says {expected}")
    return [tensor["shape"] for tensor in tensors]


def scan_cache() -> tuple[tuple[CachedRevision, ...], tuple[str, ...]]:
    """List the models in the cache, and what in there huggingface_hub cannot read."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        report = scan_cache_dir()
    except CacheNotFound:
        return (), ()
    except OSError as error:
        # A repo was removed while it was read; the next refresh sees the result.
        return (), (f"the cache is changing: {error}",)
    revisions = [
        CachedRevision(repo.repo_id, tuple(sorted(revision.refs)), revision.commit_hash, revision.size_on_disk)
        for repo in report.repos
        for revision in repo.revisions
    ]
    # Before 1.9 huggingface_hub takes the CACHEDIR.TAG of later ones for a broken repo.
    unreadable = [str(warning) for warning in report.warnings if "CACHEDIR.TAG" not in str(warning)]
    return tuple(sorted(revisions, key=lambda each: (each.repo, each.commit))), tuple(unreadable)


def fresh_playground(port: int) -> str:
    """Return the command that makes and launches another playground, beside the app on `port`."""
    return f"python start_app.py --demo --app-dir new-playground --port {port + 1}"


def version_card(
    model: Model | None, port: int, cached: Sequence[CachedRevision], unreadable: Sequence[str] = ()
) -> str:
    """Say in HTML which model this process runs, and whether a restart would run the same one."""
    chips: list[tuple[str, bool]] = []
    if model is None:
        version = "no model"
        note = f"the cache has no models: <code>{fresh_playground(port)}</code> makes a new demo folder"
    else:
        version, note = f"running {model.name}", _restart_note(model, cached)
        emotions = f": {', '.join(model.emotions)}" if model.emotions else " not available"
        chips.append((f"emotion control{emotions}", bool(model.emotions)))
        chips.append((f"{model.parameters:,} parameters in {model.tensors} tensors", False))
    good = model is not None and not note and not unreadable
    notes = "".join(f'<p class="note">{each}</p>' for each in [note, *map(html.escape, unreadable)] if each)
    marks = "".join(f'<span class="{"on" if on else ""}">{html.escape(text)}</span>' for text, on in chips)
    return (
        f'<div class="tts-card {"good" if good else "odd"}">'
        f'<p class="version"><span class="dot">●</span>{html.escape(version)}</p>{notes}'
        f'<div class="tts-chips">{marks}</div></div>'
    )


def _restart_note(model: Model, cached: Sequence[CachedRevision]) -> str:
    """Return what is worth knowing before a restart, in HTML; blank when it would run the same model."""
    mine = [each for each in cached if each.repo == model.repo]
    if any(each.commit == model.commit and "main" in each.refs for each in mine):
        return ""
    if mine:
        return "the cache now has another <code>main</code> of it: a restart runs that one"
    return "the cache no longer has it, only this process does: a restart runs another model"


def table_rows(cached: Sequence[CachedRevision]) -> list[list[str]]:
    """Return the rows of the table, under COLUMNS."""
    return [
        [each.repo, ", ".join(each.refs) or "none", each.commit[:7], f"{each.size / 1000:,.1f} kB"] for each in cached
    ]


def chart_data(model: Model | None, cached: Sequence[CachedRevision]) -> Any:
    """Return what the bar chart draws, as a pandas table: a repo, its size in kB, and whether this process runs it."""
    import pandas

    running = None if model is None else (model.repo, model.commit)
    return pandas.DataFrame(
        {
            "repo": [each.repo for each in cached],
            "kB": [each.size / 1000 for each in cached],
            "state": [RUNNING if (each.repo, each.commit) == running else IDLE for each in cached],
        }
    ).astype({"repo": "str", "kB": "float", "state": "str"})


def chart_limits(cached: Sequence[CachedRevision]) -> list[float | None]:
    """Return where the chart's axis of kB begins and ends: a bar that touches the frame looks cut off."""
    return [0, 1.15 * max((each.size / 1000 for each in cached), default=1)]


def process_facts() -> str:
    """Return, in HTML, what this process is and which settings it really uses."""
    import gradio
    import huggingface_hub
    from huggingface_hub import constants

    facts = {
        "pid": str(os.getpid()),
        "HF_ENDPOINT": constants.ENDPOINT,
        "python": f"{sys.version.split()[0]}, gradio {gradio.__version__}",
        "HF_HOME": constants.HF_HOME,
        "huggingface_hub": f"{huggingface_hub.__version__}, {'offline' if constants.HF_HUB_OFFLINE else 'online'}",
        "hub cache": constants.HF_HUB_CACHE,
    }
    rows = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    return f'<div class="tts-card"><h2>this process</h2><dl class="tts-facts">{rows}</dl></div>'


def _launcher() -> tuple[str, Path | None]:
    """Return how to call start_app.py on this playground, and the folder from which, if it has to be that one."""
    folder = Path.cwd()
    if folder.name != DEFAULT_FOLDER or not (folder.parent / "start_app.py").is_file():
        return f"python start_app.py --demo --app-dir {shlex.quote(str(folder))}", None
    python = sys.executable.removeprefix(f"{folder.parent}{os.sep}")
    return f"{shlex.quote(python)} start_app.py --demo", folder.parent


def things_to_try(port: int, cached: Sequence[CachedRevision]) -> str:
    """Return, in HTML, the commands which show what the launcher does with this page's process and these models."""
    app, where = _launcher()
    if port != DEFAULT_PORT:
        app += f" --port {port}"
    there = {each.repo for each in cached}
    steps = {
        f"{app} status": "what runs here, with which model",
        f"{app} -n -v": "what a restart would do, and why",
        app: "a restart: a new instance with a new pid",
        f"{app} cache list": "which models are on the disk",
        f"{app} doctor": "what is wrong or odd",
    }
    if there:
        steps[f"{app} cache verify"] = "whether each file is as the Hub has it"
    if there and HUB.is_dir():
        steps[f"{app} models check"] = "which model is behind the Hub, and whether the mirror lags"
        steps[f"{app} --force-refresh"] = "a restart with the newest models"
    if NEWEST_FIRST[-1] in there:
        steps[f"{app} --remove-model {NEWEST_FIRST[-1]}"] = "a restart without it"
    steps[f"{app} stop"] = "stop exactly this instance"
    button = '<button class="copy" type="button">copy</button>'
    rows = "".join(
        f"<li><code>{html.escape(k)}</code>{button}<span>{html.escape(v)}</span></li>" for k, v in steps.items()
    )
    place = f", in {where}" if where else ""
    heading = f"try in another terminal{html.escape(place)}"
    start = html.escape(app, quote=True)
    return f'<div class="tts-card" data-start="{start}"><h2>{heading}</h2><ol class="tts-steps">{rows}</ol></div>'


def make_page(model: Model | None, port: int, look: dict[str, Any]) -> gr.Blocks:
    """Lay out the page; what it shows of the cache is read anew on each load and each refresh."""
    import gradio as gr

    def refresh() -> tuple[str, list[list[str]], Any, str, str]:
        cached, unreadable = scan_cache()
        return (
            version_card(model, port, cached, unreadable),
            table_rows(cached),
            gr.update(value=chart_data(model, cached), y_lim=chart_limits(cached)),
            process_facts(),
            things_to_try(port, cached),
        )

    cached, unreadable = scan_cache()
    page = gr.Blocks(title="index-tts demo", analytics_enabled=False, **look)
    with page:
        with gr.Row():
            gr.HTML(
                '<div class="tts-head"><h1>index-tts</h1><span>the demo app of start_app.py</span></div>', padding=False
            )
            button = gr.Button("refresh", variant="secondary", size="sm", min_width=120, elem_id="refresh")
        version = gr.HTML(version_card(model, port, cached, unreadable), padding=False, elem_id="version")
        with gr.Row():
            table = gr.Dataframe(
                table_rows(cached),
                headers=COLUMNS,
                label="models in the cache",
                show_label=True,
                column_widths=["46%", "14%", "19%", "21%"],
                interactive=False,
                wrap=True,
                elem_id="cache-table",
                scale=3,
                min_width=320,
            )
            chart = gr.BarPlot(
                chart_data(model, cached),
                x="repo",
                y="kB",
                color="state",
                color_map={RUNNING: "#10b981", IDLE: "#94a3b8"},
                title="size on disk, kB",
                # A blank makes Gradio show the name of the column.
                x_title=" ",
                y_title=" ",
                color_title=" ",
                y_lim=chart_limits(cached),
                height=240,
                elem_id="cache-chart",
                scale=2,
                min_width=320,
            )
        process = gr.HTML(process_facts(), padding=False, elem_id="process")
        steps = gr.HTML(things_to_try(port, cached), padding=False, elem_id="try")
        shown = [version, table, chart, process, steps]
        gr.on([page.load, button.click], refresh, outputs=shown, show_progress="hidden", api_name="refresh")
    return page


def serve(model: Model | None, host: str, port: int) -> None:
    """Serve the page until SIGINT."""
    import gradio as gr

    theme = gr.themes.Soft(primary_hue="emerald", neutral_hue="slate", font=FONT, font_mono=FONT_MONO)
    look: dict[str, Any] = {"theme": theme, **{kind: (HERE / f"page.{kind}").read_text() for kind in ("css", "js")}}
    # Gradio 6 moved the look of a page from Blocks() to launch().
    late = int(gr.__version__.split(".")[0]) >= 6
    if not late:
        # The last of Gradio 5 warn of that move, and take nothing in launch() yet.
        warnings.filterwarnings("ignore", "The '(theme|css|js)' parameter in the Blocks", DeprecationWarning)
    # Gradio up to 6.17 at least uses a name that newer Starlette has given another.
    warnings.filterwarnings("ignore", "'HTTP_422_UNPROCESSABLE_ENTITY' is deprecated")
    page = make_page(model, port, {} if late else look)
    page.launch(server_name=host, server_port=port, share=False, ssr_mode=False, **(look if late else {}))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options; the environment gives the defaults, as it does for Gradio itself."""
    parser = argparse.ArgumentParser(prog="webui.py", description="A small text-to-speech web UI.")
    parser.add_argument("--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT") or DEFAULT_PORT)
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Load the model, say which one on stdout, open the port; return the exit status."""
    options = parse_arguments(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        model = load_newest_model()
        name = model.name if model else f"none in the cache ({fresh_playground(options.port)})"
        print(f"model: {name}", flush=True)
        serve(model, options.host, options.port)
    except (DamagedModelError, OSError) as error:
        print(f"webui.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
