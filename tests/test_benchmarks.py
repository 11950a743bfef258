"""Benchmarks that cannot run here say so in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_without_a_gpu_the_gpu_benchmark_is_refused_in_one_sentence(tmp_path: Path) -> None:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(GPU), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("benchmarks/gpu.py: torch finds no GPU here; run it where")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
