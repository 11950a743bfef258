"""Does it pay to train the sub-models of the reconstruction detector together where they share a device?

    python benchmarks/members_together.py

Five members of 16 images a batch; random features in the shapes of real ones, and no dropout, so that every way must
arrive at the same losses:

loop       one member after the other, as shipped
vmap       one stacked set of parameters, `torch.func.vmap` over the members, one optimiser, a gradient norm per member
grouped    the same parameters, the members' convolutions written as grouped ones (pyramid decoder only)
processes  a process for each of the loop's threads, two members each: what Ray makes of members on a CPU

Every way lives in processes of its own, so that its peak memory is its own.  The ways take turns within a round, and
ratios are between turns of one round.  A round waits for other programs to rest; one that they disturbed all the same
stays among the raw rows, and the table takes from it only what other programs hardly touch (Linux: /proc/stat).
Writes benchmarks/members_together.md and the raw rows beside it; the reading that ends it is written by hand.
"""

import argparse
import contextlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from harness import Row, machine_busy_s, setting, wait_for_calm, write_rows
from member_ways import CASES, SCORED, Alone, Case, Grouped, Stacked, Step

HERE = Path(__file__).parent
NUM_MEMBERS = 5
IN_A_PROCESS = 2  # members, where each process has one thread
CALM = 0.05  # of the machine that other programs may take besides the cores we leave free
MAX_ROUNDS = 2  # for each calm one that is wanted
PATIENCE_S = 60  # that a round waits for calm
Task = Literal["train", "score"]
Way = type[Alone] | type[Stacked]
Seconds = npt.NDArray[np.float64]  # of the wall clock, and of the processor


@dataclass(frozen=True)
class Turn:
    """What one process says of its turn."""

    images_per_s: float
    images_per_cpu_s: float
    values: list[float]  # the members' last losses, or mean scores
    cpu_s: float
    before_mib: float  # memory before anything was built; on a GPU 0
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["CNN", "small ViT"])
    parser.add_argument("--rounds", type=int, default=10, help="calm ones")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--result", type=Path, default=HERE / "members_together.md")
    arguments = parser.parse_args()
    rows = [
        row for case in arguments.cases for threads in arguments.threads for row in _measured(case, threads, arguments)
    ]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    command = " ".join(["python benchmarks/members_together.py", *sys.argv[1:]])
    arguments.result.write_text(
        f"# Members trained together, {date.today()}\n\n{setting(command, _hardware(arguments.device))}\n\n"
        f"K = {NUM_MEMBERS}; median [quartiles] over rounds; a ratio is to the loop's turn in the same round.  A "
        "disturbed round gives no time but the CPU time of one thread (more would count their waiting for each other). "
        " The difference is the largest of any member's loss, or mean score, from the loop's.\n\n"
        f"{_table(rows)}\n\nRaw rows: {arguments.result.stem}.csv\n"
    )
    print(arguments.result.read_text())


def _measured(name: str, threads: int, arguments: argparse.Namespace) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        ways = {
            way: [stack.enter_context(_process(name, kind, members, each, arguments.device)) for members in shares]
            for way, kind, shares, each in _ways(name, threads)
        }
        for task in ("train", "score"):
            calm = 0
            for number in range(MAX_ROUNDS * arguments.rounds):
                rows = _round(ways, task, CALM + 1 - threads / (os.cpu_count() or 1), reverse=number % 2 == 1)
                calm += rows[0]["calm"]
                print(f"{name} {task} {threads} threads: round {number}, {calm} calm", file=sys.stderr, flush=True)
                yield from ({"case": name, "threads": threads, "task": task, "round": number, **row} for row in rows)
                if calm == arguments.rounds:
                    break


def _ways(case: str, threads: int) -> Iterator[tuple[str, Way, list[range], int]]:
    """Name, kind, members of each process, and threads of each."""
    everyone = [range(NUM_MEMBERS)]
    yield "loop", Alone, everyone, threads
    yield "vmap", Stacked, everyone, threads
    if case == "CNN":
        yield "grouped", Grouped, everyone, threads
    if threads > 1:
        yield "processes", Alone, [range(IN_A_PROCESS)] * threads, 1


def _round(ways: Mapping[str, Sequence[Connection]], task: Task, limit: float, reverse: bool) -> list[Row]:
    """A row per way; calm if other programs kept to `limit` of the machine in all their turns."""
    wait_for_calm(limit, PATIENCE_S)
    rows = {way: _turn(ways[way], task) for way in sorted(ways, key=list(ways).index, reverse=reverse)}
    loop = rows["loop"]
    calm = all(row["others"] <= limit for row in rows.values())
    for row in rows.values():
        values = row.pop("values") if row is not loop else loop["values"]
        row["difference"] = max(abs(a - b) for a, b in zip(values, loop["values"], strict=False))
        row["ratio"] = row["images_per_s"] / loop["images_per_s"]
        row["cpu_ratio"] = row["images_per_cpu_s"] / loop["images_per_cpu_s"]
    del loop["values"]
    return [{"way": way, "calm": calm, **rows[way]} for way in ways]


def _turn(pipes: Sequence[Connection], task: Task) -> Row:
    start_s, busy_s = time.perf_counter(), machine_busy_s()
    for pipe in pipes:
        pipe.send(task)
    turns: list[Turn] = [pipe.recv() for pipe in pipes]
    wall_s, busy_s = time.perf_counter() - start_s, machine_busy_s() - busy_s
    return {
        "images_per_s": sum(turn.images_per_s for turn in turns),
        "images_per_cpu_s": statistics.mean(turn.images_per_cpu_s for turn in turns),
        "others": (busy_s - sum(turn.cpu_s for turn in turns)) / (wall_s * (os.cpu_count() or 1)),
        "before_mib": sum(turn.before_mib for turn in turns),
        "peak_mib": sum(turn.peak_mib for turn in turns),
        "values": turns[0].values,
    }


@contextlib.contextmanager
def _process(case: str, way: Way, members: range, threads: int, device: torch.device) -> Iterator[Connection]:
    """The end of a pipe: a task sent there is answered by a Turn."""
    context = get_context("spawn")  # a forked copy of a process that has loaded torch may deadlock
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, CASES[case], way, members, threads, device))
    process.start()
    try:
        yield here
    finally:
        here.send(None)
        process.join()


def _serve(pipe: Connection, case: Case, way: Way, members: range, threads: int, device: torch.device) -> None:
    torch.set_num_threads(threads)
    before_mib = _peak_mib(device)
    # As shipped: repeatable kernels.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        while task := pipe.recv():
            cpu_s = time.process_time()
            measure = _train if task == "train" else _score
            num_images, taken, values = measure(case, way(case, members, device), device)
            rates = (len(members) * num_images / taken).tolist()
            pipe.send(Turn(*rates, values, time.process_time() - cpu_s, before_mib, _peak_mib(device)))


def _train(case: Case, way: Alone | Stacked, device: torch.device) -> tuple[int, Seconds, list[float]]:
    taken, losses = np.zeros(2), list[float]()
    for step in way.steps():
        step_taken, loss_K = _timed(step, case.repeats, device)
        taken += step_taken
        losses += loss_K.tolist()
    return case.repeats * case.detector.batch_size, taken, losses


@torch.no_grad()
def _score(case: Case, way: Alone | Stacked, device: torch.device) -> tuple[int, Seconds, list[float]]:
    taken, score_KB = _timed(way.scorer(), case.repeats, device)
    return case.repeats * SCORED, taken, score_KB.mean(dim=1).tolist()


def _timed(step: Step, repeats: int, device: torch.device) -> tuple[Seconds, torch.Tensor]:
    """What so many steps take after a first one, and what the last one returned."""
    step()
    start = _now(device)
    for _ in range(repeats):
        last = step()
    return _now(device) - start, last


def _now(device: torch.device) -> Seconds:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return np.array([time.perf_counter(), time.process_time()])


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _hardware(device: torch.device) -> str:
    return f"on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "no GPU used"


def _table(rows: Sequence[Row]) -> str:
    names = ("decoder", "task", "threads", "way", "images/s", "ratio", "per CPU s", "ratio", "difference", "peak MiB")
    lines = ["| " + " | ".join(names) + " | before | calm rounds |", "|---" * (len(names) + 2) + "|"]
    keys = ("case", "task", "threads", "way")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        tried = [row for row in rows if tuple(row[name] for name in keys) == key]
        calm = [row for row in tried if row["calm"]]
        alone = tried if tried[0]["threads"] == 1 else calm
        cells = [
            *map(str, key),
            *(_quartiles(calm, "images_per_s", ".0f"), _quartiles(calm, "ratio", ".2f")),
            *(_quartiles(alone, "images_per_cpu_s", ".0f"), _quartiles(alone, "cpu_ratio", ".2f")),
            f"{max(row['difference'] for row in tried):.1e}",
            *(f"{max(row[name] for row in tried):.0f}" for name in ("peak_mib", "before_mib")),
            f"{len(calm)} of {len(tried)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _quartiles(rows: Sequence[Row], name: str, form: str) -> str:
    if len(rows) < 2:
        return "-"
    low, middle, high = statistics.quantiles([row[name] for row in rows], n=4, method="inclusive")
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
