"""The command line: each command is the function of the same name in `llb_ray.api`, with words around it.

Exit status: 0 done, 1 refused with one sentence, 2 misused, 130 or 143 stopped by a signal.  Nothing heavy is imported
until a command needs it.
"""

from llb_ray.cli import config, data, report, run, tune, use  # each adds its commands to the group
from llb_ray.cli.common import main

__all__ = ["config", "data", "main", "report", "run", "tune", "use"]
