"""What `llb-ray doctor` and `llb-ray plan` print."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from llb_ray.planning.doctor import Check


def show_check(console: Console, check: Check) -> None:
    """One line, and a second that says what to do unless all is well."""
    console.print(f"{check.state:4}  {check.name:13}  {check.found}", soft_wrap=True, highlight=False, markup=False)
    if check.fix:
        console.print(f"      {'':13}  -> {check.fix}", soft_wrap=True, highlight=False, markup=False)


def checks_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The same for programs: docs/file-formats.md."""
    return {"ok": all(check.state != "fail" for check in checks), "checks": [asdict(check) for check in checks]}
