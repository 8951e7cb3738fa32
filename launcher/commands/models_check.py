"""`models check`: is it the newest commit, by the mirror and by the Hub."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..errors import ExitStatus
from ..models import check, hub
from ..operations import pull


def run(context: Context) -> Report:
    """Compare what is here with what the mirror and the Hub have."""
    arguments, console = context.arguments, context.console
    if context.lockfile is not None:
        subjects, there = check.locked_subjects(context.lockfile, context.roots, context.settings.app_dir)
        if subjects and not there:
            console.warn("none of the locked models is on this machine: what is compared is models.lock")
    else:
        subjects = check.cached_subjects(context.roots)
    subjects = pull.chosen_subjects(arguments.repos, subjects, context)
    if not subjects and context.lockfile is not None:
        console.warn("no models: models.lock pins nothing; start_app.py models lock REPO does")
    elif not subjects:
        console.warn(f"no models: neither a models.lock nor anything in {context.roots[0].path}")
    if context.offline:
        console.warn("HF_HUB_OFFLINE is set: no hub is asked, what is told is what is here")
        judged = check.offline(subjects)
    else:
        judged = check.run(subjects, context.endpoints, context.own_environment, context.timeout(hub.DEFAULT_SECONDS))
    status = ExitStatus.DONE
    if any(one.stale for one in judged):
        status = ExitStatus.STALE
    elif any(one.verdict == "unreachable" for one in judged):
        status = ExitStatus.RETRY
    mirrored = context.endpoints.mirrored
    if mirrored:
        console.say(f"mirror: {context.endpoints.used.url}")
    console.say(f"hub: {context.endpoints.official.url}")
    document = {
        "offline": context.offline,
        "locked": context.lockfile is not None,
        "mirror": context.endpoints.used.url if mirrored else None,
        "hub": context.endpoints.official.url,
        "models": [check.document(one) for one in judged],
        "exit_status": int(status),
    }
    ways = "start_app.py models lock; start_app.py models pull" if context.lockfile else "start_app.py models pull"
    hint = f"{ways}; start_app.py --force-refresh pulls and restarts in one"
    stale = status == ExitStatus.STALE and not context.offline
    table = console.table(check.rows(judged, mirrored=mirrored)) if judged else ()
    return Answer(status, table, document, hint if stale else None)
