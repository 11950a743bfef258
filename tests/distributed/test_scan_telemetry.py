"""What the metrics say of a scan: what `llb-ray status` says of it."""

from pathlib import Path

import pytest

from llb_ray.distributed import repeating, scan_telemetry
from tests.support import write_beat, write_scan

Values = dict[tuple[str, str], float]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Values:
    """Values by metric and state, as they are set."""
    values: Values = {}

    class Recorder:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self._name, self._keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self._keys), "Ray refuses a tag that is missing or unknown"
            assert tags["scan"] == "night"
            values[self._name, tags.get("state", "")] = value

    monkeypatch.setattr(scan_telemetry, "Gauge", Recorder)
    monkeypatch.setattr(repeating, "LOOK_S", 0.001)
    return values


def test_the_jobs_of_a_scan_are_counted_by_state(recorded: Values, tmp_path: Path) -> None:
    out = write_scan(tmp_path / "night", done=4, total=10, failed=1, up_to_date=2, running=["gear", "wood"])
    write_beat(out / "jobs" / "gear", "member-000")
    with scan_telemetry.scan_metrics(out):
        pass
    assert {state: value for (name, state), value in recorded.items() if name == "llb_scan_jobs"} == {
        "done": 3,
        "running": 2,
        "failed": 1,
        "waiting": 4,
    }
    assert recorded["llb_scan_images_per_second", ""] == pytest.approx(1.5)
    assert recorded["llb_scan_left_seconds", ""] == pytest.approx(100 * (4 + 1) / (2 + 1), rel=0.1)


def test_no_time_is_left_unset_before_a_job_has_ended_and_a_folder_that_is_gone_ends_nothing(
    recorded: Values, tmp_path: Path
) -> None:
    out = write_scan(tmp_path / "night", done=2, total=10, up_to_date=2, running=["gear"])
    for folder in (out, tmp_path / "gone"):
        with scan_telemetry.scan_metrics(folder):
            pass
    assert ("llb_scan_left_seconds", "") not in recorded
    assert recorded["llb_scan_jobs", "waiting"] == 7
