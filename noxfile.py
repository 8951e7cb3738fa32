"""Run the usual jobs, each in an environment of its own: `nox -l` lists them, `nox -s lint` runs one."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests; words after `--` go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(name="tests-all")
def tests_all(session: nox.Session) -> None:
    """Run every test, also those that take seconds or need a browser or the checkers of deploy/."""
    session.install("-e", ".[test,browser,deploy]")
    session.run("pytest", "--all", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure every claim of docs/benchmarks.md; `-- --quick` measures on a small scale."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the commands and compare the transcripts, tables and links of README and docs/ with the code."""
    session.install("-e", ".[test]")
    session.run("pytest", "--all", "tests/e2e", "-k", "readme or docs", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the branches that the whole suite takes, in every launcher that it starts."""
    session.install("-e", ".[test]", "coverage")
    root, data = Path(__file__).parent, Path(session.create_tmp(), "data").resolve()
    site = session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True)
    line = (
        "import os, sys; 'MEASURED_BY' in os.environ and "
        f"(sys.path.append({str(root / '.ci')!r}), __import__('measured').begin(), sys.path.pop())\n"
    )
    Path(str(site).strip(), "measured.pth").write_text(line)
    measured = {"MEASURED_BY": str(root / "pyproject.toml"), "COVERAGE_FILE": str(data)}
    session.run("pytest", "-q", "--all", *session.posargs, env=measured, success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet", env=measured)
    session.run("coverage", "report", env=measured)
