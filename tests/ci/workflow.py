"""A GitHub workflow, read and run here: its expressions by a small function, its `run:` steps by
bash, its `uses:` steps not at all."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
_NAME = re.compile(r"[a-z]+\.[\w-]+")
Values = Mapping[str, Any]
"""`inputs.model`, `github.workspace` and so on → its value."""


def read(path: Path) -> dict[str, Any]:
    """The file, with the key `on` under that name (YAML reads it as true)."""
    found = yaml.safe_load(path.read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def inputs(workflow: Mapping[str, Any], given: Values) -> dict[str, Any]:
    """`inputs.…` of a call: what is given, and defaults; an unknown or missing one fails."""
    declared = workflow["on"]["workflow_call"]["inputs"]
    assert not set(given) - set(declared), f"no such input: {set(given) - set(declared)}"
    missing = {n for n, d in declared.items() if d.get("required")} - set(given)
    assert not missing, f"missing: {missing}"
    return {f"inputs.{n}": given.get(n, d.get("default", "")) for n, d in declared.items()}


def substituted(text: str, values: Values) -> str:
    """Every `${{ name }}` and `${{ name || name }}` of a text, filled in."""

    def fill(found: re.Match[str]) -> str:
        return str(evaluated(found[1], values))

    return _EXPRESSION.sub(fill, text)


def evaluated(expression: str, values: Values) -> Any:
    """A name, or the first of several joined by || that is not empty. KeyError if unknown."""
    result: Any = ""
    for part in expression.split("||"):
        assert _NAME.fullmatch(part.strip()), f"{expression!r} is more than this function reads"
        result = values[part.strip()]
        if result:
            return result
    return result


@dataclass(frozen=True)
class Ran:
    name: str
    code: int
    output: str


def run_job(
    workflow: Mapping[str, Any], job: str, values: Values, place: Path, extra: Mapping[str, str]
) -> list[Ran]:
    """The job's `run:` steps in order, in `place`. After one fails, only those that say
    `!cancelled()` run. `extra` is added to their environment."""
    found = workflow["jobs"][job]
    environment = {**os.environ, **extra}
    for level in (workflow.get("env", {}), found.get("env", {})):
        environment |= {name: substituted(str(text), values) for name, text in level.items()}
    done: list[Ran] = []
    for step in found["steps"]:
        if "run" not in step:
            continue
        always = "!cancelled()" in step.get("if", "")
        if any(one.code for one in done) and not always:
            continue
        assert "${{" not in step["run"], f"an expression inside a script: {step['run']}"
        result = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=place, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        done.append(Ran(step.get("name", step["run"]), result.returncode, _told(result)))
    return done


def _told(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout + result.stderr
