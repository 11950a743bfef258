"""Commands that are killed at random moments and run again: is anything lost, different, or stuck?

    python benchmarks/kill.py --trials 20 --out runs/kill            # every command
    python benchmarks/kill.py --trials 20 --commands predict scan    # some of them; further trials are added

Each trial starts a command, sends it SIGKILL, SIGINT or SIGTERM after a random share of the time that it takes whole,
runs the same command again to its end, and compares every file with those of a run that nobody disturbed (logs are left
out, and of a report the times and its own path).  ``report`` is killed in a finished run, ``tune --resume`` in a search
that a SIGKILL interrupted before.  A process is forked for each, with all libraries loaded, so that the moments are
those of the work and not of imports.
"""

import argparse
import csv
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import llb_ray
from llb_ray import api, config
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic
from llb_ray.data.tables import read_table

PASSING = {"events.jsonl", "results.parquet"}  # have times in them
TIMINGS = re.compile(rb'<section id="timings">.*?</section>', re.DOTALL)  # of a report
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
SETTINGS = ["detector.name=autoencoder", "detector.image_size_px=32", "detector.channels=4", "members.count=3"]
SETTINGS += [
    "detector.member_steps=60",
    "detector.final_steps=120",
    "resources.checkpoint_s=0",
    "purify.keep_ratio=0.8",
]
STUCK_S = 600
COLUMNS = ["command", "trial", "signal", "after_s", "first", "second", "seconds", "different"]
Act = Callable[[Path], object]


def _nothing(out: Path) -> None:
    """Most commands start without their --out."""


@dataclass(frozen=True)
class Command:
    """A command that is killed, given its --out, and what is there before it."""

    act: Act
    prepare: Act = _nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/kill"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=[])
    options = parser.parse_args()
    import llb_ray.distributed.tuning  # noqa: F401  # loads Ray: a signal within an import is another matter

    options.out.mkdir(parents=True, exist_ok=True)
    commands = _commands(options.out)
    for name in options.commands or commands:
        _try(name, commands[name], options.out, options.trials, random.Random(options.seed))
    _summarize(options.out)


def _commands(out: Path) -> dict[str, Command]:
    """Each command on the same small data set."""
    photos = out / "photos"
    if not photos.exists():
        made = SyntheticConfig(("weave",), train_objects=40, test_objects=20, alpha=0.2, size_px=48)
        write_synthetic(photos, made)
    settings = config.load(None, SETTINGS)
    manifest = llb_ray.read_folder(photos / "weave", settings)
    base = out / "base"
    api.run(settings, manifest, out=base, executor="serial")
    row = next(r for r in read_table(base / "purified" / "part-0.arrow").to_pylist() if r["decision"] == "rejected")
    overrides = out / "overrides.csv"
    overrides.write_text(f"image_id,decision\n{row['image_id']},keep\n")
    scanned = ["scan.dataset.kind=mvtec", f"scan.dataset.root={photos}", "scan.filters=[none,llb]", "scan.seeds=[0]"]
    scan = config.load_scan(None, [*SETTINGS, *scanned])
    draws = random.Random(0)
    return {
        "run (serial)": Command(lambda to: api.run(settings, manifest, out=to, executor="serial")),
        "run (Ray)": Command(lambda to: api.run(settings, manifest, out=to, executor="ray")),
        "predict": Command(lambda to: api.predict(base, photos / "weave", out=to, maps=True)),
        "repurify": Command(lambda to: api.repurify(base, overrides, out=to, executor="serial")),
        "export": Command(lambda to: api.export(base, "anomalib-csv", out=to)),
        "report": Command(api.report, lambda to: shutil.copytree(base, to)),
        "scan": Command(lambda to: api.scan(scan, out=to, executor="serial")),
        "tune": Command(lambda to: _tune(settings, manifest, to)),
        "tune --resume": Command(
            lambda to: _tune(settings, manifest, to), lambda to: _interrupt_tune(settings, manifest, to, draws)
        ),
    }


def _tune(settings: llb_ray.RunConfig, manifest: llb_ray.Manifest, out: Path) -> object:
    from llb_ray.search.space import Choice, Space

    space = Space({"purify.keep_ratio": Choice((0.7, 0.8))})
    resume = (out / "tune").exists()
    return api.tune(settings, manifest, space, out=out, objective="separation", resume=resume)


def _interrupt_tune(settings: llb_ray.RunConfig, manifest: llb_ray.Manifest, out: Path, draws: random.Random) -> None:
    """A search that has begun its trials, killed a little later."""
    process = _start(lambda to: _tune(settings, manifest, to), out)
    while not list(out.glob("tune/experiment_state-*")):
        time.sleep(0.1)
    time.sleep(draws.uniform(0, 5))
    os.kill(process, signal.SIGKILL)
    _wait(process, 60)


def _try(name: str, command: Command, out: Path, trials: int, draws: random.Random) -> None:
    """Run the command whole, then kill it `trials` times, and append a row for each trial."""
    folder = out / "".join(letter for letter in name.replace(" ", "-") if letter not in "()")
    shutil.rmtree(folder, ignore_errors=True)
    whole = folder / "whole"
    command.prepare(whole)
    started_s = time.monotonic()
    assert _wait(_start(command.act, whole), STUCK_S) == 0, f"{name} does not even end undisturbed"
    took_s = time.monotonic() - started_s
    expected = _files(whole)
    trial = interrupted = 0
    while interrupted < trials:
        hurt = folder / f"{trial:03d}"
        command.prepare(hurt)
        number, after_s = draws.choice(SIGNALS), draws.uniform(0, took_s)
        started_s = time.monotonic()
        process = _start(command.act, hurt)
        time.sleep(after_s)
        os.kill(process, number)
        first = _wait(process, 60)
        second = 0 if first == 0 else _wait(_start(command.act, hurt), STUCK_S)  # it was done before it was killed
        found = _files(hurt)
        different = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        row = [name, trial, number.name, round(after_s, 2), first, second, round(time.monotonic() - started_s, 1)]
        _append(out, [*row, " ".join(different[:3])])
        shutil.rmtree(hurt, ignore_errors=True)
        trial, interrupted = trial + 1, interrupted + (first != 0)


def _start(act: Act, out: Path) -> int:
    """The process that does it; its output goes to a log."""
    process = os.fork()
    if process:
        return process
    log = os.open(out.parent.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        act(out)
    except KeyboardInterrupt:
        os._exit(130)
    except SystemExit as error:
        os._exit(int(error.code or 0))
    except BaseException as error:  # noqa: BLE001  # the row says that it failed, the log why
        print(f"{out}: {type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def _wait(process: int, patience_s: float) -> int | str:
    """Its exit status, negative for a signal; ``stuck`` if it had to be killed."""
    give_up_s = time.monotonic() + patience_s
    while time.monotonic() < give_up_s:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "stuck"


def _files(folder: Path) -> dict[str, str]:
    """The digest of every file that must not depend on luck or time."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_content(path, folder)).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not _passes(path.relative_to(folder))
    }


def _content(path: Path, folder: Path) -> bytes:
    content = path.read_bytes()
    return TIMINGS.sub(b"", content).replace(str(folder).encode(), b"RUN") if path.name == "report.html" else content


def _passes(path: Path) -> bool:
    folders = {"progress", ".building", "tune", "rows"}
    return path.name in PASSING or path.name.startswith((".lock", "trials.")) or not folders.isdisjoint(path.parts)


def _append(out: Path, row: Sequence[object]) -> None:
    path = out / "kill.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, row] if is_new else [row])


def _summarize(out: Path) -> None:
    with (out / "kill.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| command | interrupted | lost | different | stuck |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["command"] for row in rows):
        mine = [row for row in rows if row["command"] == name and row["first"] != "0"]  # else it was done before
        lost = sum(row["second"] not in ("0", "stuck") for row in mine)
        different = sum(row["second"] == "0" and row["different"] != "" for row in mine)
        stuck = sum("stuck" in (row["first"], row["second"]) for row in mine)
        lines.append(f"| {name} | {len(mine)} | {lost} | {different} | {stuck} |")
    title = f"Killed at a random moment by SIGKILL, SIGINT or SIGTERM, then run again (`{' '.join(sys.argv[:1])}`).\n\n"
    (out / "kill.md").write_text(title + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
