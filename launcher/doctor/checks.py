"""List every check of `doctor`, in the order in which their findings are shown."""

from __future__ import annotations

from ..errors import ExitStatus
from . import app, box, models
from .finding import Check

CHECKS = (
    Check("python", app.python, "start_app.py --version -v", machine=True),
    Check("settings", app.settings, "start_app.py -n -v", machine=True),
    Check("start", app.start, "start_app.py -n -v"),
    Check("port", app.instance, "start_app.py status"),
    Check("log-out", app.logout, "start_app.py status"),
    Check("disk", box.disk, "df -h", ExitStatus.IO),
    Check("folders", box.folders, "mount", ExitStatus.IO),
    Check("cache", models.cache, "start_app.py cache list"),
    Check("models", models.models, "start_app.py models list"),
    Check("hub", models.hubs, "start_app.py models check --timeout 30", ExitStatus.RETRY),
    Check("token", models.token, "start_app.py -n -v"),
    Check("proxy", models.proxy, "start_app.py -n -v", machine=True),
    Check("gpu", box.gpu, "nvidia-smi", machine=True),
    Check("container", box.container, "cat /proc/1/comm", machine=True),
    Check("systemd", box.systemd, "systemctl status"),
)
