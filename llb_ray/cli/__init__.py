"""The command line: most commands call the function of the same name in `llb_ray.api` and print its result.

Exit status: 0 done, 1 refused with one sentence, 2 misused; of `predict --fail-on-anomaly`, 3 an anomaly found and 4 no
anomaly but a file that is no readable image; of `drift` and `predict --monitor`, 3 an alarm; 130 or 143 stopped by a
signal.  Nothing heavy is imported until a command needs it.
"""

from llb_ray.cli import (
    bench_command,
    config_command,
    data_commands,
    detector_commands,
    drift_command,
    planning_commands,
    report_commands,
    review_command,
    run_commands,
    scan_commands,
    serve_command,
    track_command,
    tune_command,
    update_command,
)
from llb_ray.cli.common import main

__all__ = [
    "bench_command",
    "config_command",
    "data_commands",
    "detector_commands",
    "drift_command",
    "main",
    "planning_commands",
    "report_commands",
    "review_command",
    "run_commands",
    "scan_commands",
    "serve_command",
    "track_command",
    "tune_command",
    "update_command",
]
