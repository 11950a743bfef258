"""Ray's reason for the death of a process, in one phrase."""

import re


def why(error: Exception) -> str:
    """The telling line of Ray's report: the last Python error in it, else how the process ended."""
    lines = str(error).strip().splitlines()
    errors = [line.strip() for line in lines if re.match(r"\s*[\w.]*Error: ", line)]
    endings = [line.partition("exit detail: ")[2] for line in lines if "exit detail: " in line]
    return (errors or endings or lines)[-1][:300]
