"""How fast is a service, and does it lose requests?  `llb-ray serve` under load on this machine.

    python benchmarks/serve.py --run runs/photos --other runs/photos-2 --data photos --seconds 60 200

Clients ask one image after another, each waiting for its verdict.  For 1 and for 2 replicas: requests per second and
latencies, then the same while a run is swapped (the link that is served is pointed at the other run); with 2 replicas
also while one of them is killed.  A request counts as lost unless it is answered 200.  `--seconds` are for each line
with 1 and with 2 replicas.
Writes benchmarks/serve.md and a row for each line beside it.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import cycle
from pathlib import Path

import numpy as np
import requests
from harness import Row, software, write_rows

HERE = Path(__file__).parent
CLIENTS, NAME, PATIENCE_S = 4, "line", 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True, help="the run that it is swapped for")
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--out", type=Path, default=Path("runs/serve"))
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--seconds", type=float, nargs=2, default=(60, 200))
    parser.add_argument("--result", type=Path, default=HERE / "serve.md")
    arguments = parser.parse_args()
    images = [path.read_bytes() for path in sorted(arguments.data.rglob("*.*"))[:64]]
    rows = [
        row
        for replicas, seconds in zip((1, 2), arguments.seconds, strict=True)
        for row in measured(arguments, images, replicas, seconds)
    ]
    write_rows(rows, arguments.result.with_suffix(".csv"))
    arguments.result.write_text(page(rows))
    print(arguments.result.read_text())


def measured(arguments: argparse.Namespace, images: Sequence[bytes], replicas: int, seconds: float) -> Iterator[Row]:
    """A row for each thing that happens to a service with so many replicas."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    link = arguments.out / "served"
    point(link, arguments.run)
    with served(link, arguments.port, replicas) as service:
        address = f"http://127.0.0.1:{arguments.port}/runs/{NAME}/predict"
        happenings: dict[str, Callable[[], None]] = {
            "nothing": lambda: None,
            "the run is swapped": lambda: point(link, arguments.other),
        }
        if replicas > 1:
            happenings["a replica is killed"] = lambda: os.kill(judges(service.pid)[0], signal.SIGKILL)
        for name, happen in happenings.items():
            yield {"replicas": replicas, "meanwhile": name} | loaded(address, images, seconds, happen)


def loaded(address: str, images: Sequence[bytes], seconds: float, happen: Callable[[], None]) -> Row:
    """What clients saw in so many seconds; `happen` is called after a fifth of them."""
    answers: list[tuple[int, float, str]] = []
    end_s = time.perf_counter() + seconds
    clients = [threading.Thread(target=ask, args=(address, images[at:], end_s, answers)) for at in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(seconds / 5)
    happen()
    for client in clients:
        client.join()
    took_ms = [1000 * took_s for _, took_s, _ in answers]
    found = {"seconds": seconds, "requests": len(answers), "per_s": len(answers) / seconds}
    found |= {"p50_ms": float(np.quantile(took_ms, 0.5)), "p95_ms": float(np.quantile(took_ms, 0.95))}
    lost, versions = sum(status != 200 for status, _, _ in answers), {version for *_, version in answers if version}
    return found | {"max_ms": max(took_ms), "lost": lost, "versions": len(versions)}


def ask(address: str, images: Sequence[bytes], end_s: float, answers: list[tuple[int, float, str]]) -> None:
    """Ask for one verdict after the other."""
    session = requests.Session()
    for image in cycle(images):
        if (started_s := time.perf_counter()) > end_s:
            return
        try:
            answer = session.post(address, image, timeout=PATIENCE_S)
            status, version = answer.status_code, answer.json().get("version", "") if answer.ok else ""
        except requests.RequestException:
            status, version = 0, ""
        answers.append((status, time.perf_counter() - started_s, version))


@contextmanager
def served(run: Path, port: int, replicas: int) -> Iterator[subprocess.Popen[bytes]]:
    """Inside, `llb-ray serve` is up."""
    options = ["--port", str(port), "--replicas", str(replicas)]
    with subprocess.Popen([sys.executable, "-m", "llb_ray", "serve", f"{NAME}={run}", *options]) as service:
        try:
            wait_for(lambda: requests.get(f"http://127.0.0.1:{port}/runs", timeout=5).ok)
            yield service
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(PATIENCE_S)


def wait_for(there: Callable[[], bool]) -> None:
    """Until it is there."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        try:
            if there():
                return
        except requests.RequestException:
            pass
        time.sleep(1)
    raise TimeoutError("the service did not start")


def point(link: Path, run: Path) -> None:
    """Have the link lead to the run, at one stroke."""
    new = link.with_name("new")
    new.symlink_to(run.absolute())
    new.replace(link)


def judges(pid: int) -> list[int]:
    """The processes below this one that judge images (Linux)."""
    below = list(children(pid))
    return [one for one in below if b":judge" in Path(f"/proc/{one}/cmdline").read_bytes()]


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from children(child)


def page(rows: Sequence[Row]) -> str:
    titles = ("replicas", "meanwhile", "seconds", "requests", "per s", "p50, ms", "p95, ms", "max, ms", "lost")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        numbers = [f"{row['per_s']:.1f}", *(f"{row[name]:.0f}" for name in ("p50_ms", "p95_ms", "max_ms"))]
        counts = [f"{row['seconds']:g}", row["requests"]]
        cells = [row["replicas"], row["meanwhile"], *counts, *numbers, row["lost"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    command = "python benchmarks/serve.py " + " ".join(sys.argv[1:])
    said = (
        f"{CLIENTS} clients, an image a request, on a machine that other programs shared (load "
        f"{os.getloadavg()[2]:.0f} over 15 minutes, and another at each line): rates are a lower bound, times an upper "
        "one, and lines do not compare with each other."
    )
    return f"# A service under load, {date.today()}\n\n{software(command)}\n\n{said}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
