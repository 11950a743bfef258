"""anomalib trains on what was exported.  Behind `make test-interop`, which makes an environment for anomalib."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import llb_ray

pytestmark = pytest.mark.interop
SCRIPT = Path(__file__).with_name("train_padim.py")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("copy", [False, True])
def test_padim_trains_on_the_purified_set_and_is_measured_on_the_labelled_one(
    copy: bool, finished: Path, tmp_path: Path
) -> None:
    python = os.environ.get("INTEROP_PYTHON")
    if python is None:
        pytest.skip("INTEROP_PYTHON names no Python with anomalib; `make test-interop` makes one")
    llb_ray.export(finished, "anomalib-csv", out=tmp_path / "set", copy=copy)
    words = [python, str(SCRIPT), str(tmp_path / "set"), str(tmp_path / "out")]
    output = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert output.returncode == 0, output.stderr[-3000:]
    result = json.loads(output.stdout.rpartition("RESULT ")[2].splitlines()[0])
    print(result)  # noqa: T201
    assert (result["train"], result["test"]) == (36, 24)
    assert result["image_AUROC"] > 0.5
