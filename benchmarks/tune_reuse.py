"""What do the trials of a search save by sharing their work?  24 trials in one store, and each in a store of its own.

    python benchmarks/tune_reuse.py --out runs/tune_reuse

4 partition counts x 3 keep ratios x 2 target Gaussians on synthetic gears with the autoencoder, two trials at a time
on two cores.  Both searches go through Ray Tune the same way and judge by the same canaries.  Stage 2 is in every
trial, so what can be saved depends on the budgets: `--member-steps` and `--final-steps`.

Writes benchmarks/tune_reuse.md and the raw rows beside it.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from harness import setting, write_rows

import llb_ray
from llb_ray.artifacts import Store
from llb_ray.config import load
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.distributed.tuning import run_trials
from llb_ray.search.search_plan import Search, trial_images
from llb_ray.search.search_results import num_trained
from llb_ray.search.space import Choice, Space
from llb_ray.search.trials import best, trials_table

HERE = Path(__file__).parent
SPACE = Space(
    {
        "members.count": Choice((2, 3, 5, 8)),
        "purify.keep_ratio": Choice((0.7, 0.8, 0.9)),
        "importance.mode": Choice(("off", "moments")),
    }
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Alone(Search):
    """A search whose trials have nothing in common: a store for each."""

    def store_of(self, values: Any) -> Path:
        return self.folder(values) / "artifacts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--member-steps", type=int, default=600)
    parser.add_argument("--final-steps", type=int, default=300)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    write_synthetic(out / "photos", SyntheticConfig(("gear",), alpha=0.2))
    steps = [f"detector.member_steps={arguments.member_steps}", f"detector.final_steps={arguments.final_steps}"]
    config = load(HERE.parent / "configs" / "autoencoder.yaml", steps)
    manifest = llb_ray.read_folder(out / "photos" / "gear", config)
    judged = trial_images("canary", manifest, None, out, config)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    shared = Search(config, SPACE, judged, out / "shared")
    found = {name: _timed(plan) for name, plan in (("shared", shared), ("alone", _alone(shared, out / "alone")))}
    rows = [{"search": name, **row} for name, (_, table) in found.items() for row in table.to_pylist()]
    write_rows(rows, HERE / "tune_reuse.csv")
    (HERE / "tune_reuse.md").write_text(_report(found, out, arguments))
    print((HERE / "tune_reuse.md").read_text())


def _alone(search: Search, out: Path) -> Search:
    return Alone(search.base, search.space, search.manifest, out)


def _timed(plan: Search) -> tuple[float, pa.Table]:
    started = time.perf_counter()
    trials = run_trials(plan, lambda line: print(line, file=sys.stderr, flush=True))
    return time.perf_counter() - started, trials_table(trials)


def _report(found: dict[str, tuple[float, pa.Table]], out: Path, arguments: argparse.Namespace) -> str:
    lines = [
        "| search | seconds | members trained | final detectors trained | best trial | objective |",
        "|---" * 6 + "|",
    ]
    for name, (seconds, table) in found.items():
        folders = [out / "shared" / "artifacts"] if name == "shared" else (out / "alone" / "trials").glob("*/artifacts")
        trained = sum((num_trained(Store(folder)) for folder in folders), num_trained(Store(out / "nothing")))
        top = best(table)
        values = ", ".join(f"{key} {top[key]}" for key in SPACE.domains)
        lines.append(
            f"| {name} | {seconds:.0f} | {trained['member']} | {trained['final']} | {values} | {top['objective']:.4f} |"
        )
    ratio = found["alone"][0] / found["shared"][0]
    return f"""# A search whose trials share their work, {date.today()}

{setting("python benchmarks/tune_reuse.py " + " ".join(sys.argv[1:]))}

24 trials, {arguments.member_steps} steps a member, {arguments.final_steps} the final detector; two trials at a time.

{chr(10).join(lines)}

**{ratio:.1f} times less wall time** with a shared store.

Raw rows: tune_reuse.csv
"""


if __name__ == "__main__":
    main()
