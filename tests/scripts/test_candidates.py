"""Which scripts of a folder are the app: read off, never run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher.scripts.candidates import Folder
from tests.support.apps import clean_environment, launcher

UI = "from .ui import demo\ndemo.launch()\n"
PAGE = 'import gradio as gr\nwith gr.Blocks() as demo:\n    gr.Markdown("hello")\n'
RUN = f"{PAGE}def run():\n    demo.launch()\n"
LAUNCHED = f'{PAGE}if __name__ == "__main__":\n    demo.launch()\n'


def make(folder: Path, files: Mapping[str, str]) -> Folder:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Folder(folder)


def entries(folder: Folder) -> list[str]:
    return [folder.entry(candidate.path) for candidate in folder.candidates]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"main.py": "import torch\ntrain()\n", "gradio_app.py": LAUNCHED}, ["gradio_app.py"]),
        ({"train.py": LAUNCHED, "inference_ui.py": LAUNCHED}, ["inference_ui.py", "train.py"]),
        ({"zebra.py": LAUNCHED, "app.py": LAUNCHED}, ["app.py", "zebra.py"]),
        ({"pkg/__init__.py": "", "pkg/web.py": UI, "pkg/ui.py": PAGE}, ["-m pkg.web"]),
        ({"a.py": "from b.ui import main\nmain()\n", "b/ui.py": f"{PAGE}def main():\n    demo.launch()\n"}, ["a.py"]),
        ({"sub/app.py": "import gradio\nimport core\ngradio.Blocks().launch()\n", "core.py": ""}, ["-m sub.app"]),
        ({"sub/app.py": LAUNCHED}, ["sub/app.py"]),
        ({"web ui.py": LAUNCHED}, ["web ui.py"]),
        ({"pkg/__main__.py": "from .ui import run\nrun()\n", "pkg/ui.py": RUN}, ["-m pkg"]),
        ({"x.py": "import gradio as gr\np.chromium.launch()\n"}, []),
        ({"x.py": "import gradio as gr\ngr.Textbox()\n"}, []),
        ({"x.py": "browser.launch()\n"}, []),
        ({"venv/pyvenv.cfg": "", "venv/app.py": LAUNCHED, ".hidden/app.py": LAUNCHED}, []),
    ],
)  # fmt: skip
def test_the_scripts_that_import_gradio_and_launch_are_the_candidates(
    files: Mapping[str, str], expected: list[str], tmp_path: Path
) -> None:
    assert entries(make(tmp_path, files)) == expected


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "app.py").write_text(LAUNCHED)
    app = tmp_path / "app"
    app.mkdir()
    (app / "app.py").symlink_to(tmp_path / "other" / "app.py")
    (app / "sub").symlink_to(tmp_path / "other")
    (app / "loop").symlink_to(app)
    os.mkfifo(app / "fifo.py")
    (app / "ours.py").write_text(LAUNCHED)
    (app / "linked.py").symlink_to(app / "ours.py")
    assert entries(Folder(app)) == ["linked.py", "ours.py"]


def test_a_folder_without_the_script_names_the_ones_that_launch_a_page(tmp_path: Path) -> None:
    make(tmp_path, {"main.py": "import torch\ntrain()\n", "my ui.py": LAUNCHED, "other.py": LAUNCHED})
    done = launcher("--app-dir", tmp_path, "-n", env=clean_environment())
    assert done.status == 78
    assert f"no webui.py in {tmp_path}\n" in done.err
    assert (
        f" --app-dir {tmp_path} init writes 'APP_SCRIPT=my ui.py' into {tmp_path}/.env; 'my ui.py' imports gradio and"
        in done.err
    )
    assert "also possible: APP_SCRIPT=other.py" in done.err
    assert "main.py" not in done.err
