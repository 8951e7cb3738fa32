"""Small apps, one for each way in which real Gradio apps take their script, port, address and command.

Each was written for the tests; only the ways are those of real apps. `PORT` in a file or a setting stands for a port
that is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FAKES = Path(__file__).with_name("fake_modules")
PAGE = 'import gradio as gr\nwith gr.Blocks() as demo:\n    gr.Markdown("hello")\n'
MAIN = '\nif __name__ == "__main__":\n'
ARGPARSE = f"import argparse\n{PAGE}parser = argparse.ArgumentParser(allow_abbrev=False)\n"


class App(NamedTuple):
    """Hold an app: its files, the settings that init is to write, and whether its port is its own.

    `installed` makes a console script of that name in the app's `.venv`, which calls `module:function`. `by_hand` are
    lines that a person has to write, because they cannot be read off.
    """

    files: Mapping[str, str]
    lines: Mapping[str, str]
    own_port: bool = False
    installed: Mapping[str, str] = {}
    by_hand: str = ""


def parsed(arguments: str, launched: str) -> str:
    return f"{ARGPARSE}{arguments}\nargs = parser.parse_args()\n{MAIN}    demo.queue().launch({launched})\n"


NONE = {"APP_PORT_FLAG": "none"}
APPS: Mapping[str, App] = {
    "argparse": App(
        {"webui.py": parsed(
            'parser.add_argument("--port", type=int, default=7860)\nparser.add_argument("--host", default="127.0.0.1")',
            "server_name=args.host, server_port=args.port")},
        {},
    ),
    "argparse with other names": App(
        {"app.py": parsed(
            'parser.add_argument("--server_port", type=int)\nparser.add_argument("--server_name", type=str)',
            "server_name=args.server_name, server_port=args.server_port")},
        {"APP_SCRIPT": "app.py", "APP_PORT_FLAG": "--server_port", "APP_HOST_FLAG": "--server_name"},
    ),
    "argparse with a short option only": App(
        {"demo.py": parsed('parser.add_argument("-p", type=int, dest="number")', "server_port=args.number")},
        {"APP_SCRIPT": "demo.py", "APP_PORT_FLAG": "-p", "APP_HOST_FLAG": "none"},
    ),
    "argparse with a listening switch": App(
        {"server.py": parsed(
            'parser.add_argument("--listen", action="store_true")\nparser.add_argument("--listen-port", type=int)',
            'server_name="0.0.0.0" if args.listen else None, server_port=args.listen_port')},
        {"APP_SCRIPT": "server.py", "APP_PORT_FLAG": "--listen-port", "APP_HOST_FLAG": "none"},
    ),
    "argparse with a port of its own": App(
        {"infer-web.py": parsed('parser.add_argument("--port", type=int, default=PORT)', "server_port=args.port")},
        {"APP_SCRIPT": "infer-web.py", "GRADIO_SERVER_PORT": "PORT", "APP_HOST_FLAG": "none"},
        own_port=True,
    ),
    "argparse in another module": App(
        {"modules/__init__.py": "", "modules/shared.py": 'import argparse\np = argparse.ArgumentParser()\n'
            'p.add_argument("--gradio-port", type=int)\nargs = p.parse_args()\n',
         "start.py": f"from modules import shared\n{PAGE}demo.launch(server_port=shared.args.gradio_port)\n"},
        {"APP_SCRIPT": "start.py", "APP_PORT_FLAG": "--gradio-port", "APP_HOST_FLAG": "none"},
    ),
    "argparse with an API's port beside it": App(
        {"app.py": parsed(
            'parser.add_argument("--api-port", type=int, default=1)\nparser.add_argument("--web-port", type=int)',
            "server_port=args.web_port")},
        {"APP_SCRIPT": "app.py", "APP_PORT_FLAG": "--web-port", "APP_HOST_FLAG": "none"},
    ),
    "argparse through keywords": App(
        {"app.py": f"{ARGPARSE}parser.add_argument('--port', type=int)\nargs = parser.parse_args()\n"
            "options = {}\nif args.port:\n    options['server_port'] = args.port\ndemo.launch(**options)\n"},
        {"APP_SCRIPT": "app.py", "APP_HOST_FLAG": "none"},
    ),
    "argparse with a subcommand": App(
        {"cli.py": f"import argparse\n{PAGE}def web(args):\n    demo.launch(server_port=args.port)\n"
            "def train(args):\n    raise SystemExit('training')\n"
            "top = argparse.ArgumentParser()\nsub = top.add_subparsers(dest='what', required=True)\n"
            "t = sub.add_parser('train')\nt.set_defaults(func=train)\n"
            "w = sub.add_parser('webui')\nw.add_argument('--port', type=int)\nw.set_defaults(func=web)\n"
            "args = top.parse_args()\nargs.func(args)\n"},
        {"APP_SCRIPT": "cli.py", "APP_COMMAND": "{python} {script} webui --port {port}"},
    ),
    "a positional port": App(
        {"app.py": f"import sys\n{PAGE}port = int(sys.argv[1]) if len(sys.argv) > 1 else 7860\n"
            "demo.launch(server_port=port)\n"},
        {"APP_SCRIPT": "app.py", "APP_COMMAND": "{python} {script} {port}"},
    ),
    "click": App(
        {"app.py": f"import click\n{PAGE}@click.command()\n@click.option('--port', '-p', default=7860)\n"
            "@click.option('--host', '-H', default='127.0.0.1')\n"
            f"def main(port, host):\n    demo.launch(server_name=host, server_port=port)\n{MAIN}    main()\n"},
        {"APP_SCRIPT": "app.py"},
    ),
    "click with commands": App(
        {"app.py": f"import click\n{PAGE}@click.group()\ndef cli():\n    pass\n"
            "@cli.command()\ndef train():\n    raise SystemExit('training')\n"
            "@cli.command('serve')\n@click.option('--web-port', default=7860)\n"
            f"def page(web_port):\n    demo.launch(server_port=web_port)\n{MAIN}    cli()\n"},
        {"APP_SCRIPT": "app.py", "APP_COMMAND": "{python} {script} serve --web-port {port}"},
    ),
    "typer": App(
        {"app.py": f"import typer\n{PAGE}def main(server_port: int = 7860, server_name: str = '127.0.0.1'):\n"
            f"    demo.launch(server_name=server_name, server_port=server_port)\n{MAIN}    typer.run(main)\n"},
        {"APP_SCRIPT": "app.py", "APP_PORT_FLAG": "--server-port", "APP_HOST_FLAG": "--server-name"},
    ),
    "typer with commands": App(
        {"app.py": f"import typer\n{PAGE}app = typer.Typer()\n@app.command()\ndef train():\n    pass\n"
            "@app.command()\ndef web_ui(port: int = typer.Option(7860, '--port', '-p')):\n"
            f"    demo.launch(server_port=port)\n{MAIN}    app()\n"},
        {"APP_SCRIPT": "app.py", "APP_COMMAND": "{python} {script} web-ui --port {port}"},
    ),
    "tyro with a function": App(
        {"app.py": f"import tyro\n{PAGE}def main(server_port: int = 7860, share: bool = False):\n"
            f"    demo.launch(server_port=server_port)\n{MAIN}    tyro.cli(main)\n"},
        {"APP_SCRIPT": "app.py", "APP_PORT_FLAG": "--server-port", "APP_HOST_FLAG": "none"},
    ),
    "tyro with a data class in another": App(
        {"app.py": f"from dataclasses import dataclass, field\nimport tyro\n{PAGE}@dataclass\nclass Server:\n"
            "    port: int = 7860\n@dataclass\nclass Config:\n    server: Server = field(default_factory=Server)\n"
            f"{MAIN}    config = tyro.cli(Config)\n    demo.launch(server_port=config.server.port)\n"},
        {"APP_SCRIPT": "app.py", "APP_PORT_FLAG": "--server.port", "APP_HOST_FLAG": "none"},
    ),
    "fire": App(
        {"app.py": f"import fire\n{PAGE}def main(server_port=7860):\n    demo.launch(server_port=server_port)\n"
            f"{MAIN}    fire.Fire(main)\n"},
        {"APP_SCRIPT": "app.py", "APP_PORT_FLAG": "--server_port", "APP_HOST_FLAG": "none"},
    ),
    "plain launch": App(
        {"gradio_app.py": f"{PAGE}{MAIN}    demo.launch()\n", "main.py": "import torch\ntrain()\n"},
        {"APP_SCRIPT": "gradio_app.py", **NONE},
    ),
    "launch of an interface at the top level": App(
        {"app.py": "import gradio as gr\ngr.Interface(len, 'text', 'label').launch(share=False)\n"},
        {"APP_SCRIPT": "app.py", **NONE},
    ),
    "gradio's variable read by the app": App(
        {"app.py": f"import os\n{PAGE}demo.launch(server_port=int(os.getenv('GRADIO_SERVER_PORT', '7860')))\n"},
        {"APP_SCRIPT": "app.py", **NONE},
    ),
    "a variable of its own": App(
        {"app.py": f"import os\n{PAGE}demo.launch(server_name=os.environ.get('HOST', '127.0.0.1'),\n"
            "            server_port=int(os.environ.get('APP_WEB_PORT', 7860)))\n"},
        {"APP_SCRIPT": "app.py", "APP_PORT_ENV": "APP_WEB_PORT", "APP_HOST_ENV": "HOST"},
    ),
    "a variable of its own with a default": App(
        {"app.py": f"import os\n{PAGE}PORT_NUMBER = int(os.environ.get('PORT') or PORT)\n"
            "demo.launch(server_port=PORT_NUMBER)\n"},
        {"APP_SCRIPT": "app.py", "APP_PORT_ENV": "PORT", "GRADIO_SERVER_PORT": "PORT"},
        own_port=True,
    ),
    "a port in the code": App(
        {"app.py": f"{PAGE}demo.launch(server_name='127.0.0.1', server_port=PORT)\n"},
        {"APP_SCRIPT": "app.py", "GRADIO_SERVER_PORT": "PORT", **NONE},
        own_port=True,
    ),
    "a port in another file of the app": App(
        {"config.py": "webui_port_main = PORT\n",
         "webui.py": f"from config import webui_port_main\n{PAGE}demo.launch(server_port=webui_port_main)\n"},
        {"GRADIO_SERVER_PORT": "PORT", **NONE},
        own_port=True,
    ),
    "a module of a package": App(
        {"pkg/__init__.py": "", "pkg/core.py": "text = 'hello'\n",
         "pkg/web.py": f"import argparse\nfrom .core import text\n{PAGE}p = argparse.ArgumentParser()\n"
            f"p.add_argument('--port', type=int)\na = p.parse_args()\n{MAIN}    demo.launch(server_port=a.port)\n"},
        {"APP_SCRIPT": "-m pkg.web", "APP_HOST_FLAG": "none"},
    ),
    "a package that is run": App(
        {"ui/__init__.py": "", "ui/page.py": f"{PAGE}def run():\n    demo.launch()\n",
         "ui/__main__.py": "from .page import run\nrun()\n"},
        {"APP_SCRIPT": "-m ui", **NONE},
    ),
    "a script that calls a module": App(
        {"app.py": "from web.page import main\nmain()\n",
         "web/page.py": f"{PAGE}def main():\n    demo.queue().launch(inbrowser=True)\n"},
        {"APP_SCRIPT": "app.py", **NONE},
    ),
    "a console script": App(
        {"pyproject.toml": '[project]\nname = "page"\n[project.scripts]\npage-ui = "pkg.cli:main"\n',
         "pkg/__init__.py": "",
         "pkg/cli.py": f"import argparse\n{PAGE}def main():\n    p = argparse.ArgumentParser()\n"
            "    p.add_argument('--port', type=int)\n    demo.launch(server_port=p.parse_args().port)\n"},
        {"APP_SCRIPT": "page-ui", "APP_HOST_FLAG": "none"},
        installed={"page-ui": "pkg.cli:main"},
    ),
    "mounted on FastAPI": App(
        {"app.py": f"import argparse\nimport gradio as gr\nimport uvicorn\nfrom fastapi import FastAPI\n{PAGE}"
            "app = gr.mount_gradio_app(FastAPI(), demo, path='/')\np = argparse.ArgumentParser()\n"
            "p.add_argument('--port', type=int, default=7860)\na = p.parse_args()\nuvicorn.run(app, port=a.port)\n"},
        {"APP_SCRIPT": "app.py", "APP_HOST_FLAG": "none"},
    ),
    "mounted on FastAPI, with the port in the code": App(
        {"app.py": f"import gradio as gr\nimport uvicorn\nfrom fastapi import FastAPI\n{PAGE}"
            f"app = gr.mount_gradio_app(FastAPI(), demo, path='/')\n{MAIN}    uvicorn.run(app, port=PORT)\n"},
        {"APP_SCRIPT": "app.py", "GRADIO_SERVER_PORT": "PORT", **NONE},
        own_port=True,
    ),
    "slides to the next port": App(
        {"app.py": f"{PAGE}for port in range(PORT, PORT + 10):\n    try:\n        demo.launch(server_port=port)\n"
            "    except OSError:\n        continue\n"},
        {"APP_SCRIPT": "app.py", "GRADIO_SERVER_PORT": "PORT", **NONE},
        own_port=True,
    ),
    "a start script": App(
        {"app.py": parsed('parser.add_argument("--port", type=int)\nparser.add_argument("--fp16", action="store_true")',
            "server_port=args.port"),
         "run.sh": '#!/bin/bash\ncd "$(dirname "$0")"\nexport HF_HOME=./cache_hub\n'
            'exec python app.py --fp16 --port PORT "$@"\n'},
        {"APP_SCRIPT": "app.py", "GRADIO_SERVER_PORT": "PORT", "APP_ARGS": "--fp16", "HF_HOME": "./cache_hub",
         "APP_HOST_FLAG": "none"},
        own_port=True,
    ),
    "a launcher script that runs another one": App(
        {"launch.py": "import os, sys\nos.execv(sys.executable, [sys.executable, 'webui.py', *sys.argv[1:]])\n",
         "webui.py": parsed('parser.add_argument("--port", type=int)', "server_port=args.port"),
         "modules/cmd_args.py": "", "run.sh": "python launch.py\n"},
        {"APP_SCRIPT": "launch.py webui.py", "APP_HOST_FLAG": "--server-name"},
    ),
    "a port in a file of settings": App(
        {"app.py": f"import json\n{PAGE}with open('config.json') as file:\n    config = json.load(file)\n"
            "demo.launch(server_port=config['server']['port'])\n",
         "config.json": '{"server": {"port": PORT}}\n'},
        {"APP_SCRIPT": "app.py", **NONE},
        own_port=True,
        by_hand="GRADIO_SERVER_PORT=PORT\n",
    ),
}  # fmt: skip
