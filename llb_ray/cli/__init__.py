"""The command line: each command is the function of the same name in `llb_ray.api`, with words around it.

Exit status: 0 done, 1 refused with one sentence, 2 misused; of `predict --fail-on-anomaly`, 3 an anomaly found and 4 no
anomaly but a file that is no readable image; 130 or 143 stopped by a signal.  Nothing heavy is imported until a
command needs it.
"""

from llb_ray.cli import before, config, data, report, run, scan, tune, use  # each adds its commands to the group
from llb_ray.cli.common import main

__all__ = ["before", "config", "data", "main", "report", "run", "scan", "tune", "use"]
