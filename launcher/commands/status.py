"""`status`: show what runs, as far as it can be proved from outside; nothing is inferred from the settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..app import page as pages
from ..app.page import Page
from ..cache import roots
from ..config.settings import Settings
from ..context import Answer, Context, Report
from ..errors import LauncherError
from ..instances import port
from ..instances import process as processes
from ..instances.describe import (
    describe,
    describe_member,
    instance_document,
    left_documents,
    member_document,
    on_other_ports,
    process_document,
    verdicts,
    where,
)
from ..instances.resources import gpu_memory, memory
from ..instances.survey import Instance
from ..models import loaded, versions, weights
from ..models.loaded import InUse
from ..models.lockfile import Lock
from ..models.versions import NAMED_AT_MOST
from ..operations import weights as operation
from ..operations.instance import Observed, observe
from ..operations.outcome import (
    PARKED_HINT,
    look_back,
    see_page,
    set_document,
    start_document,
    told_end,
    told_parked,
)
from ..operations.weights import Inventory
from ..service.outcomes import Outcomes
from ..ui import text

State = Literal["running", "loading", "launching", "another user's", "unseen", "not running"]


class Status(NamedTuple):
    """Hold the known facts about the app on its port; sizes are bytes, `gpu_memory` is None without a GPU."""

    settings: Settings
    observed: Observed
    state: State
    instance: Instance | None
    page: Page | None
    addresses: tuple[str, ...]
    interpreter: str | None
    endpoint: str | None
    cache_roots: tuple[Path, ...]
    memory: int | None
    gpu_memory: int | Literal["unknown"] | None
    models: tuple[InUse, ...] = ()
    starts: Outcomes = Outcomes()
    weights: Inventory = Inventory((), ())

    @property
    def locked(self) -> bool:
        """Return whether the instance can load only pinned models."""
        return bool(self.instance and self.observed.record and self.observed.record.locked)

    @property
    def log(self) -> str | None:
        """Return the file of the instance's output, if a launcher has set one."""
        record = self.observed.record
        return record.log if self.instance and record and record.pid == self.instance.pid else None

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return the status as `name: value` rows for a person."""
        rows = [("state", f"{self.state}, locked" if self.locked else self.state), ("app", str(self.settings.script))]
        if self.instance:
            process = self.instance.process
            rows += [
                ("pid", str(process.pid)),
                ("user", text.user(process.uid)),
                ("uptime", text.duration(process.age)),
                ("command", text.command_line(process.argv)),
                ("interpreter", self.interpreter or "unknown"),
            ]
            if self.instance.supervisor:
                rows.append(("supervisor", self.instance.supervisor.name))
        if self.log:
            rows.append(("log", self.log))
        rows += self._starts()
        rows.append(("port", str(self.settings.port)))
        answer = "does not answer" if self.instance else "not checked: this user runs no instance of the app there"
        rows.append(("page", f"{self.page.url} answers {self.page.status}" if self.page else answer))
        mismatch = port.mismatch(self.settings.host, self.addresses)
        if mismatch:
            rows.append(("address", mismatch))
        if self.instance and self.instance.listening and self.settings.port not in self.instance.listening:
            rows.append(("listens on", ", ".join(str(number) for number in sorted(self.instance.listening))))
        rows.append(("endpoint", self.endpoint or "https://huggingface.co (default)"))
        rows += [("model", model.line(locked=self.locked)) for model in self.models[:NAMED_AT_MOST]]
        if len(self.models) > NAMED_AT_MOST:
            rows.append(("model", f"{len(self.models) - NAMED_AT_MOST} more: start_app.py status --json"))
        if self.weights.flat:
            rows.append(("weights", weights.summary(self.weights.flat)))
        changes = tuple(self.weights.changes())
        rows += [("changed", f"{change}; start_app.py models list") for change in changes[:NAMED_AT_MOST]]
        if len(changes) > NAMED_AT_MOST:
            rows.append(("changed", f"{len(changes) - NAMED_AT_MOST} more: start_app.py models list"))
        rows += [("cache", f"{root}{'' if os.path.isdir(root) else ' (does not exist)'}") for root in self.cache_roots]
        if self.memory is not None:
            rows.append(("memory", text.size(self.memory)))
        if self.gpu_memory is not None:
            rows.append(("gpu memory", text.size(self.gpu_memory) if isinstance(self.gpu_memory, int) else "unknown"))
        survey = self.observed.survey
        if self.observed.unseen:
            rows.append(("lock", f"{self.observed.lock} is held by an instance that cannot be seen from here"))
        if self.observed.keeper:
            keeper = self.observed.keeper
            rows.append(("lock", f"{self.observed.lock} is held by {describe(keeper.process)}: {keeper.reason}"))
        family = (*self.instance.family, *survey.leftovers) if self.instance else survey.leftovers
        for member in family[:NAMED_AT_MOST]:
            name = "left over" if member in survey.leftovers else "goes with it"
            rows.append((name, describe_member(member)))
        if len(family) > NAMED_AT_MOST:
            rows.append(("goes with it", f"{len(family) - NAMED_AT_MOST} more: start_app.py status --json"))
        left = (*(self.instance.left if self.instance else ()), *survey.spared)
        rows += [("left alone", f"{describe(process)}: {reason}") for process, reason in left]
        rows += [("sibling", f"{describe(i.process)}{where(i, survey.port)}") for i in survey.siblings]
        rows += [("another user's", f"{describe(i.process)}{where(i, survey.port)}") for i in survey.others]
        for holder in survey.holders:
            who = describe(holder.process) if holder.process else f"a hidden process of user {text.user(holder.uid)}"
            place = f"connected to {holder.remote}" if holder.remote else f"on {holder.address}"
            rows.append(("port held by", f"{who}, {place}"))
        return tuple(rows)

    def hint(self) -> str | None:
        """Return the hint that gets the page up, if no instance runs: the first obstacle decides.

        What is in the way of every start comes before what is in the way of unattended ones, a failed start with a set
        that ran well before, and the ports of the app's other instances.
        """
        if self.instance:
            return None
        refused = None if self.observed.launcher else self.observed.launch_refusal(take_port=False)
        if refused:
            return refused.hint
        if told_parked(self.starts):
            return PARKED_HINT
        last = self.starts.last
        if last is not None and last.stage == "ended" and not last.seen and self.starts.other_good():
            return "start_app.py rollback starts what ran well before"
        return on_other_ports(self.observed.survey, "status")

    def _starts(self) -> list[tuple[str, str]]:
        """Return how the last start ended, if nothing runs, and why the last failed start failed."""
        last, failed = self.starts.last, self.starts.failed
        rows = []
        if last and last.over and self.instance is None:
            rows.append(("ended", f"{last.ended_at}, pid {last.pid} {told_end(last)}"))
        if failed and not (last and last.is_process(failed.pid, failed.start)):
            rows.append(("last failed start", f"{failed.ended_at}, pid {failed.pid} {told_end(failed)}"))
        parked = told_parked(self.starts)
        if parked:
            rows.append(("unattended starts", parked))
        if last and last.rollback and not last.over:
            rows.append(("rolled back", f"to the set of {last.ran.at}: {text.command_line(last.ran.argv)}"))
        return rows

    def document(self) -> Mapping[str, Any]:
        """Return the status for `--json`."""
        survey = self.observed.survey
        return {
            "state": self.state,
            "app_dir": str(self.settings.app_dir),
            "script": str(self.settings.script),
            "port": self.settings.port,
            "instance": process_document(self.instance.process) if self.instance else None,
            "supervisor": self.instance.supervisor.name if self.instance and self.instance.supervisor else None,
            "interpreter": self.interpreter,
            "lock": str(self.observed.lock) if self.observed.lock else None,
            "answers": self.page is not None and self.page.ready,
            "addresses": list(self.addresses),
            "page": {"url": self.page.url, "status": self.page.status} if self.page else None,
            "endpoint": self.endpoint,
            "cache_roots": [str(root) for root in self.cache_roots],
            "memory_bytes": self.memory,
            "gpu_memory_bytes": self.gpu_memory if isinstance(self.gpu_memory, int) else None,
            "locked": self.locked,
            "log": self.log,
            "models": [model.document() for model in self.models],
            "last_start": start_document(self.starts.last),
            "last_failed_start": start_document(self.starts.failed),
            "last_good": [set_document(good) for good in self.starts.good],
            "weights": {
                "files": len(self.weights.flat),
                "unknown": sum(not file.origin.known for file in self.weights.flat),
                "changed": list(self.weights.changes()),
            },
            "family": [member_document(member) for member in self.instance.family] if self.instance else [],
            "leftovers": [member_document(member) for member in survey.leftovers],
            "left": left_documents(survey),
            "siblings": [instance_document(instance) for instance in survey.siblings],
            "others": [instance_document(instance) for instance in survey.others],
            "port_held_by": [
                {
                    "address": holder.address,
                    "user": text.user(holder.uid),
                    **(process_document(holder.process) if holder.process else {"pid": None}),
                }
                for holder in survey.holders
            ],
        }


def run(context: Context) -> Report:
    """Show what runs on the port; with `-v` also the processes that only look like an instance."""
    shown = status(context)
    for line in verdicts(shown.observed.survey):
        context.console.detail(line)
    lines = tuple(f"{name}: {value}" for name, value in shown.facts())
    return Answer(text=lines, data=shown.document(), hint=shown.hint())


def status(context: Context) -> Status:
    """Observe the instance on the port, its page and its resources; without one, read what a launch would use."""
    settings = context.settings
    starts = look_back(context)
    observed = observe(settings)
    instance = observed.instance
    page: Page | None = None
    tree: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    if instance:
        tree = instance.tree
        addresses = port.addresses(tree).get(settings.port, ())
        if addresses:
            page = pages.page(pages.host_to_ask(settings.host, addresses), settings.port)
        environment = processes.environment(instance.pid) or {}
    else:
        environment = context.environment
    if instance and page and page.ready and starts.last and starts.last.pid in tree and not starts.last.seen:
        see_page(context, (instance,))
    running = operation.instance_of(observed)
    paths = operation.roots_of(context, environment)
    record = observed.record
    recorded = record.models if instance and record and record.pid == instance.pid else {}
    models: tuple[InUse, ...] = ()
    if instance:
        now, lock = versions.current(paths, settings.app_dir, None), _lock(context)
        if lock is not None:  # it decides about the repos that it names, and the cache about the others
            now += versions.current(paths, settings.app_dir, lock)
        models = loaded.in_use(running.opened, paths, recorded, now)
    return Status(
        settings=settings,
        observed=observed,
        state=_state(observed, page),
        instance=instance,
        page=page,
        addresses=addresses,
        interpreter=_interpreter(instance, environment),
        endpoint=environment.get("HF_ENDPOINT") or None,
        cache_roots=roots.folders(environment, settings.app_dir),
        memory=memory(tree) if instance else None,
        gpu_memory=gpu_memory(tree) if instance else None,
        models=models,
        starts=starts,
        weights=operation.inventory(context, running, cached=False),
    )


def _lock(context: Context) -> Lock | None:
    try:
        return context.lockfile
    except LauncherError:
        return None  # a running instance can be shown without it; models check reports the problem


def _state(observed: Observed, page: Page | None) -> State:
    if observed.instance:
        return "running" if page else "loading"
    if observed.launcher:
        return "launching"
    if any(instance.verdict.blocks for instance in observed.survey.others):
        return "another user's"
    return "unseen" if observed.unseen else "not running"


def _interpreter(instance: Instance | None, environment: Mapping[str, str]) -> str | None:
    # argv[0] names the environment; the executable is the base installation of all environments.
    if instance is None:
        return None
    named = instance.process.argv[0] if instance.process.argv else ""
    program = shutil.which(named, path=environment.get("PATH")) if named and os.sep not in named else named
    return program if program and os.path.isabs(program) else instance.process.exe
