"""Start-up of the commands, this checkout beside another one: CPU seconds of the same command, in turns.

    git worktree add ../before REVISION
    python benchmarks/speed.py --before ../before --out runs/speed

A detector is trained once, by the checkout before, on synthetic photographs of 224 px; then each round runs every
command with each checkout.  One torch thread, the serial executor.  Writes benchmarks/speed.md and the raw rows.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from harness import Row, software, write_rows

HERE = Path(__file__).parent
BEFORE, NOW = "before", "now"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    trees = {BEFORE: arguments.before.absolute(), NOW: HERE.parent.absolute()}
    out = arguments.out.absolute()
    prepare(out, trees[BEFORE])
    rows = [row for number in range(arguments.rounds) for row in measured(number, out, trees)]
    write_rows(rows, HERE / "speed.csv")
    (HERE / "speed.md").write_text(page(rows, revision(trees[BEFORE])))
    print((HERE / "speed.md").read_text())


def commands(out: Path) -> dict[str, list[str]]:
    """Commands by what they measure; each ends in seconds when everything is up to date."""
    llb = ["-m", "llb_ray"]
    run = [*llb, "run", "--data", str(out / "photos" / "weave"), "--out", str(out / "run"), "--executor", "serial"]
    predict = [*llb, "predict", str(out / "run"), "--data", str(out / "one"), "--out", str(out / "predicted")]
    return {
        "import torch": ["-c", "import torch"],
        "import of the backbones": ["-c", "import llb_ray.detectors.backbones"],
        "predict, one image, no overlay": [*predict, "--overlays", "none"],
        "predict, one image": predict,
        "run, all up to date, no report": [*run, "--no-report"],
    }


def prepare(out: Path, tree: Path) -> None:
    """Photographs, a finished run of them, and a folder with one image."""
    if (out / "one").exists():
        return
    cpu_s(["-m", "llb_ray", "synth", str(out / "photos"), "--category", "weave", "--size", "224"], tree)
    cpu_s(commands(out)["run, all up to date, no report"], tree)
    (out / "one").mkdir()
    shutil.copy(min((out / "photos" / "weave" / "test").rglob("*.png")), out / "one")


def measured(number: int, out: Path, trees: Mapping[str, Path]) -> Iterator[Row]:
    for what, words in commands(out).items():
        seconds: Row = {}
        for side, tree in trees.items():
            shutil.rmtree(out / "predicted", ignore_errors=True)
            seconds[side] = cpu_s(words, tree)
        print(number, what, seconds, file=sys.stderr, flush=True)
        yield {"round": number, "what": what, **seconds}


def cpu_s(words: Sequence[str], tree: Path) -> float:
    """CPU seconds of Python with these arguments, on the packages of this environment and the sources of `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, cwd=tree, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def revision(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def page(rows: Sequence[Row], before: str) -> str:
    lines = ["| what | before, CPU s | now, CPU s | now / before, median of rounds |", "|---|---|---|---|"]
    for what in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == what]
        sides = " | ".join(f"{statistics.median(row[side] for row in mine):.2f}" for side in (BEFORE, NOW))
        lines.append(f"| {what} | {sides} | {statistics.median(row[NOW] / row[BEFORE] for row in mine):.2f} |")
    return f"""# Start-up, {date.today()}

{software("python benchmarks/speed.py " + " ".join(sys.argv[1:]))}
Before: {before}.  CPU seconds of user and system, the two checkouts in turns, medians of {len(rows) // len(lines[2:])}.

{chr(10).join(lines)}

Raw rows: speed.csv
"""


if __name__ == "__main__":
    main()
