"""What a scan leaves unused on a cluster, simulated: GPUs without a job at its end, and storage that cannot keep up.

    python benchmarks/cluster.py

1. **Idle share**: jobs of unequal length on places, each a driver's part and five members.  `one place`: every job does
   its members itself; `last ones spread`: those of the last jobs, fewer than there are places, go to places of their
   own, which is what `llb-ray scan` does.  A member in a process of its own costs 5 % of a job more.
2. **Reading features**: a scan of 1,080 jobs like Real-IAD's with a gradient detector (9.6 MB of features an image,
   5,000 images a category, 240,000 readings a job) on 64 GPUs in 8 nodes.  `shared`: every reading is of the shared
   storage; `local`: of the node's own disk after the first one, which keeps the categories used last; `streamed`: the
   image is read and encoded each time.

Nothing here is measured: it is arithmetic on stated rates, to be replaced by those of `benchmarks/gpu.py` and of your
storage.  Writes benchmarks/cluster.md and the raw rows beside it.
"""

import heapq
import random
import statistics
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from harness import Row, write_rows

HERE = Path(__file__).parent
NUM_MEMBERS, STARTUP, DRIVER, SIGMA, DRAWS = 5, 0.05, 0.1, 0.4, 40


def main() -> None:
    idle = [row for sizes in ((12, 4), (16, 16), (60, 16), (100, 64), (1080, 64)) for row in idle_rows(*sizes)]
    reading = list(reading_rows())
    write_rows([*idle, *reading], HERE / "cluster.csv")
    (HERE / "cluster.md").write_text(page(idle, reading))
    print((HERE / "cluster.md").read_text())


def idle_rows(num_jobs: int, places: int) -> Iterator[Row]:
    """The share of the places' time that is not spent on jobs, under each rule."""
    for rule in ("one place", "last ones spread"):
        shares = [idle_share(num_jobs, places, rule, seed) for seed in range(DRAWS)]
        yield {"jobs": num_jobs, "places": places, "rule": rule, "idle_share": statistics.mean(shares)}


def idle_share(num_jobs: int, places: int, rule: str, seed: int) -> float:
    """One draw of the jobs' lengths: log-normal, with a spread of 40 %."""
    rng = random.Random(seed)
    lengths = deque(enumerate(rng.lognormvariate(0, SIGMA) for _ in range(num_jobs)))
    work, now, free = sum(length for _, length in lengths), 0.0, places
    queue: deque[tuple[float, int]] = deque()
    left: dict[int, int] = {}  # parts of a submitted job
    running: list[tuple[float, int]] = []
    while lengths or queue or running:
        while lengths and len(left) < places:
            spreads = rule == "last ones spread" and len(lengths) < places
            job, length = lengths.popleft()
            parts = [length * (1 - DRIVER) / NUM_MEMBERS + STARTUP] * NUM_MEMBERS if spreads else [length]
            left[job] = len(parts)
            queue.extend((part, job) for part in parts)
        while free and queue:
            part, job = queue.popleft()
            free -= 1
            heapq.heappush(running, (now + part, job))
        now, job = heapq.heappop(running)
        free += 1
        left[job] -= 1
        if not left[job]:
            del left[job]
    return 1 - work / (now * places)


@dataclass(frozen=True)
class Rates:
    """What the cluster can do; bytes and images a second."""

    shared_gb_s: float
    encode_images_s: float  # of one GPU, the decoding of its images included
    disk_tb: float = 3.5  # of a node
    local_gb_s: float = 5.0  # of a node's disk
    nodes: int = 8
    gpus_per_node: int = 8
    train_images_s: float = 1500.0  # that a GPU trains on, once it has them
    feature_mb: float = 9.6
    image_mb: float = 1.0
    images: int = 5000  # of a category
    readings: int = 240_000  # of a job

    @property
    def category_gb(self) -> float:
        return self.images * self.feature_mb / 1000


def reading_rows() -> Iterator[Row]:
    for shared, encode, disk_tb in product((2.0, 10.0, 50.0), (200.0, 1000.0), (0.5, 3.5)):
        rates = Rates(shared, encode, disk_tb)
        yield {
            "shared_gb_s": shared,
            "encode_images_s": encode,
            "disk_tb": disk_tb,
            "petabytes_read": 1080 * rates.readings * rates.feature_mb / 1e9,
            "fetched_tb": fetched_gb(rates) / 1000,
            **{f"{way}_days": seconds / 86400 for way, seconds in ways(rates).items()},
        }


def ways(rates: Rates, num_jobs: int = 1080) -> dict[str, float]:
    """Seconds of a scan's training under each way: of what bounds it, GPUs or storage."""
    gpus = rates.nodes * rates.gpus_per_node
    images = num_jobs * rates.readings
    train_s = images / rates.train_images_s / gpus
    shared_s = images * rates.feature_mb / 1000 / rates.shared_gb_s
    local_s = images * rates.feature_mb / 1000 / (rates.local_gb_s * rates.nodes)
    fetch_s = fetched_gb(rates, num_jobs) / rates.shared_gb_s
    encode_s = images * (1 / rates.encode_images_s + 1 / rates.train_images_s) / gpus
    images_s = images * rates.image_mb / 1000 / rates.shared_gb_s
    return {
        "shared": max(train_s, shared_s),
        "local": max(train_s, local_s) + fetch_s,
        "streamed": max(encode_s, images_s),
    }


def fetched_gb(rates: Rates, num_jobs: int = 1080) -> float:
    """What the nodes fetch once from the shared storage, each keeping the categories that it used last.

    Jobs come in the order of a scan, in which neighbours differ in the category, and go to whichever node is next.
    """
    room = max(1, int(1000 * rates.disk_tb / rates.category_gb))
    kept: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(rates.nodes)]
    misses = 0
    for job in range(num_jobs):
        category, disk = job % 30, kept[(job // rates.gpus_per_node) % rates.nodes]
        misses += category not in disk
        disk[category] = None
        disk.move_to_end(category)
        if len(disk) > room:
            disk.popitem(last=False)
    return misses * rates.category_gb


def page(idle: Sequence[Row], reading: Sequence[Row]) -> str:
    by_size = {(row["jobs"], row["places"]): {} for row in idle}
    for row in idle:
        by_size[row["jobs"], row["places"]][row["rule"]] = row["idle_share"]
    lines = ["| jobs | places | idle, every job in one place | idle, the last ones spread |", "|---|---|---|---|"]
    for (jobs, places), shares in by_size.items():
        lines.append(f"| {jobs} | {places} | {shares['one place']:.1%} | {shares['last ones spread']:.1%} |")
    more = [
        "| shared storage, GB/s | encoding, images/s a GPU | local disk, TB | shared, days | local, days (fetched, TB) "
        "| streamed, days |",
        "|---|---|---|---|---|---|",
    ]
    for row in reading:
        local = f"{row['local_days']:.2f} ({row['fetched_tb']:.0f})"
        more.append(
            f"| {row['shared_gb_s']:g} | {row['encode_images_s']:g} | {row['disk_tb']:g} | {row['shared_days']:.2f} | "
            f"{local} | {row['streamed_days']:.2f} |"
        )
    return f"""# A scan on a cluster, simulated

Command: `python benchmarks/cluster.py`.  Arithmetic on stated rates; nothing here is measured.

## GPUs without a job

Jobs of log-normal length (spread {SIGMA:.0%}), {NUM_MEMBERS} members each; means of {DRAWS} draws.

{chr(10).join(lines)}

## Reading features

1,080 jobs of 240,000 readings of 9.6 MB, {reading[0]["petabytes_read"]:.2f} PB in all, on 64 GPUs in 8 nodes; a GPU
trains on 1,500 images a second once it has them, a node's disk gives 5 GB/s, an image has 1 MB.

{chr(10).join(more)}

- Read from shared storage, a scan is bound by it at any bandwidth below 900 GB/s: 64 GPUs ask for 14 GB/s each.
- A node's own disk (`features.local`) bounds it as well (40 GB/s of all 8), but is bought once. It must hold every
  category (1.4 TB): with 0.5 TB half of the jobs fetch theirs, since neighbouring jobs differ in it.
- Encoding again reads a tenth of the bytes. It is faster than reading from where `encoding rate of all GPUs x 9.6 MB`
  exceeds the storage's bandwidth: at 1,000 images/s a GPU that is 610 GB/s, more than any of these.
  This is `features.max_gib=0`.

Raw rows: cluster.csv
"""


if __name__ == "__main__":
    main()
