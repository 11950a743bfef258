"""Three fabricated categories, and the configuration of a scan over them that takes seconds."""

from pathlib import Path

import pytest
import yaml

from llb_ray.config import RunConfig, ScanConfig, load_scan
from llb_ray.data.synthetic import SyntheticConfig, write_synthetic

CATEGORIES = ("gear", "weave", "wood")


@pytest.fixture(scope="session")
def benchmark_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three categories in MVTec's layout, clean training sets."""
    root = tmp_path_factory.mktemp("benchmark")
    write_synthetic(root, SyntheticConfig(CATEGORIES, train_objects=24, test_objects=24, alpha=0, size_px=48))
    return root


@pytest.fixture(scope="session")
def scan_yaml(tiny: RunConfig, benchmark_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for `llb-ray scan --config`: 3 categories x 2 alphas x 2 filters."""
    scan = f"scan:\n  dataset: {{kind: mvtec, root: '{benchmark_root}'}}\n  alphas: [0, 0.2]\n  num_objects: 20\n"
    path = tmp_path_factory.mktemp("scan") / "scan.yaml"
    run = tiny.model_copy(update={"data": tiny.data.model_copy(update={"group_pattern": None})})
    path.write_text(yaml.safe_dump(run.model_dump(mode="json", exclude={"threshold"})) + scan)
    return path


@pytest.fixture(scope="session")
def scan_config(scan_yaml: Path) -> ScanConfig:
    return load_scan(scan_yaml)
