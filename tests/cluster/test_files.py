"""The cluster files say what their readers expect: Ray's launcher, KubeRay, bash, Docker; and one set of versions."""

import copy
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli
from ray.serve.schema import ServeDeploySchema

import llb_ray
from llb_ray import cli, config
from llb_ray.distributed import ray_serve, scan_telemetry, telemetry
from llb_ray.serving.access import TOKEN
from tests.cluster.rayjob_schema import CLAIM, RAY_JOB, RAY_SERVICE

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHERS = ["ray-local.yaml", "ray-aws.yaml"]
SCRIPTS = [CLUSTER / "slurm.sh", ROOT / ".ci" / "run", ROOT / "tests" / "cluster" / "two_nodes.sh"]
README = (CLUSTER / "README.md").read_text()
VERSION = llb_ray.__version__
PINNED = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def _yaml(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def _claim_and_job() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all((CLUSTER / "kuberay-rayjob.yaml").read_text())
    return claim, job


@pytest.mark.parametrize("name", LAUNCHERS)
def test_rays_own_validator_takes_the_launcher_files_and_no_misspelt_key(name: str) -> None:
    validate_config(prepare_config(_yaml(name)))
    with pytest.raises(jsonschema.ValidationError, match="head_start_ray_comands"):
        validate_config(prepare_config(_yaml(name)) | {"head_start_ray_comands": []})


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launched_head_shows_its_dashboard_to_itself_only_and_asks_for_a_token(name: str) -> None:
    text = (CLUSTER / name).read_text()
    (start,) = [line for line in _yaml(name)["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in text
    assert any(target.endswith(".ray/auth_token") for target in _yaml(name)["file_mounts"])


def test_the_manifest_has_no_field_that_kuberay_does_not_know() -> None:
    claim, job = _claim_and_job()
    jsonschema.validate(claim, CLAIM)
    jsonschema.validate(job, RAY_JOB)
    for path, value in [
        (("spec", "shutdownAfterJobFinishes"), "yes"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplica"), 1),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ]:
        broken: Any = copy.deepcopy(job)
        *folders, last = path
        inner = broken
        for step in folders:
            inner = inner[step]
        inner[last] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, RAY_JOB)


def _groups() -> Iterator[dict[str, Any]]:
    """The heads and workers of both manifests."""
    service = _yaml("kuberay-rayservice.yaml")["spec"]["rayClusterConfig"]
    for cluster in (_claim_and_job()[1]["spec"]["rayClusterSpec"], service):
        yield from (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])


def test_the_service_has_fields_that_kuberay_and_serve_know_and_asks_for_a_token() -> None:
    manifest = _yaml("kuberay-rayservice.yaml")
    jsonschema.validate(manifest, RAY_SERVICE)
    config = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    assert module == ray_serve.__name__
    assert callable(getattr(ray_serve, name))
    assert ray_serve.ServeArguments(**application.args).runs == {"photos": "/shared/runs/photos"}
    with pytest.raises(ValueError, match="replica"):
        ray_serve.ServeArguments(**application.args, replica=2)
    cluster = manifest["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert [variable["name"] for variable in container["env"]] == [TOKEN]
        assert config.http_options.port in [port["containerPort"] for port in container["ports"]]


def test_pods_mount_what_they_declare_and_the_claim_is_the_one_in_the_file() -> None:
    claim, _ = _claim_and_job()
    for group in _groups():
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            assert {"name": "dshm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_pods_become_no_root_and_are_those_that_the_policy_is_about() -> None:
    policy = _yaml("kuberay-network-policy.yaml")["spec"]
    for group in _groups():
        pod = group["template"]["spec"]
        assert group["template"]["metadata"]["labels"] == policy["podSelector"]["matchLabels"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    (job_name,) = [
        peer["podSelector"]["matchLabels"]["job-name"]
        for rule in policy["ingress"]
        for peer in rule["from"]
        if "job-name" in peer["podSelector"]["matchLabels"]
    ]
    assert job_name == _claim_and_job()[1]["metadata"]["name"]


def test_one_set_of_versions() -> None:
    files = "".join(path.read_text() for path in sorted(CLUSTER.iterdir()))
    assert set(re.findall(r"llb-ray:([\w.]+\w)", files)) == {VERSION}
    assert _claim_and_job()[1]["spec"]["rayClusterSpec"]["rayVersion"] == PINNED["ray"]
    assert _yaml("kuberay-rayservice.yaml")["spec"]["rayClusterConfig"]["rayVersion"] == PINNED["ray"]
    assert set(re.findall(r"\bRay (\d+\.\d+\.\d+)", README)) == {PINNED["ray"]}
    (python,) = set(re.findall(r"^FROM python:(\d+\.\d+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE))
    assert f"Python {python}," in (ROOT / "constraints.txt").read_text().splitlines()[0]


def test_the_image_is_made_of_what_is_there_and_let_through() -> None:
    docker = (CLUSTER / "Dockerfile").read_text()
    assert "--constraint constraints.txt" in docker
    let_through = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", docker, re.MULTILINE)
    copied = [name for line in lines for name in line.split()]
    assert set(copied) == let_through
    for name in copied:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: `make .venv/.ready` installs it"
    subprocess.run([shellcheck, script], check=True)


def _commands() -> Iterator[tuple[str, str]]:
    """Every command line of ours in the cluster files, with the file's name."""
    for name in LAUNCHERS:
        parsed = _yaml(name)
        for command in parsed["head_start_ray_commands"] + parsed["worker_start_ray_commands"]:
            yield from ((name, part) for part in command.split("&&"))
    yield "kuberay-rayjob.yaml", _claim_and_job()[1]["spec"]["entrypoint"]
    # The script is given a command; its opening comment says which.
    slurm = (CLUSTER / "slurm.sh").read_text()
    yield from (("slurm.sh", f"llb-ray {words}") for words in _given_to("slurm.sh", slurm.replace("\\\n#", "")))
    slurm = slurm.replace('llb-ray "$command"', "llb-ray run")
    for name, text in (("slurm.sh", slurm), ("README.md", "\n".join(_fenced()))):
        yield from ((name, line) for line in text.replace("\\\n", " ").splitlines())


def _given_to(script: str, text: str) -> list[str]:
    return re.findall(rf"^#   sbatch .*?cluster/{script} (.*)$", text, re.MULTILINE)


def _fenced() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def _words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def _options(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def _of_ray(words: list[str]) -> click.Command:
    """The click command that `ray WORDS` runs; raises KeyError for one that there is not."""
    command: click.Command = ray_cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.commands[word]
    return command


def _flags(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]


def test_every_ray_command_and_option_exists() -> None:
    found = 0
    for name, line in _commands():
        words = _words(line)
        if "ray" not in words:
            continue
        own = words[words.index("ray") + 1 :]
        own = own[: own.index("--")] if "--" in own else own
        known = _options(_of_ray(own))
        if own[0] == "symmetric-run":
            known |= _options(_of_ray(["start"]))
        assert set(_flags(own)) <= known, f"{name}: {line}"
        found += 1
    assert found >= 15


def test_every_llb_ray_command_and_setting_exists() -> None:
    found = 0
    for name, line in _commands():
        words = _words(line)
        if "llb-ray" not in words:
            continue
        subcommand, *arguments = words[words.index("llb-ray") + 1 :]
        if subcommand == "--version":
            continue
        command = cli.main.commands[subcommand]
        assert set(_flags(arguments)) <= _options(command), f"{name}: {line}"
        overrides = [value for flag, value in itertools.pairwise(arguments) if flag == "--set"]
        chosen = [value for flag, value in itertools.pairwise(arguments) if flag == "--config"]
        load = config.load_scan if subcommand == "scan" else config.load
        load(*(ROOT / "configs" / Path(path).name for path in chosen), overrides=overrides)
        found += 1
    assert found >= 3


def test_the_readme_names_every_file_and_every_metric_and_no_other() -> None:
    for path in CLUSTER.iterdir():
        assert path.name == "README.md" or f"`cluster/{path.name}`" in README, path.name
    assert set(re.findall(r"`(ray_llb_\w+)", README)) == set(_tags())


def test_the_dashboard_asks_for_metrics_that_we_set_by_tags_that_they_have() -> None:
    for expression in grafana_expressions():
        names = re.findall(r"ray_llb_\w+", expression)
        assert names
        assert set(names) <= set(_tags())
        keys = _tags()[names[0]]
        asked = re.findall(r"(\w+)=~?\"", expression) + re.findall(r"\w+", re.findall(r"by \((.*?)\)", expression)[0])
        assert set(asked) <= set(keys), expression


def _tags() -> dict[str, tuple[str, ...]]:
    """The tags of every metric, by the name that Prometheus sees."""
    return {**_tags_of(telemetry.Meters()), **_tags_of(scan_telemetry.ScanMeters())}


def _tags_of(meters: object) -> dict[str, tuple[str, ...]]:
    counters = telemetry.Counter
    return {
        f"ray_{meter.info['name']}{'_total' if isinstance(meter, counters) else ''}": meter.info["tag_keys"]
        for meter in vars(meters).values()
    }


def metric_names() -> set[str]:
    """The metrics of a run."""
    return set(_tags_of(telemetry.Meters()))


def grafana_expressions() -> list[str]:
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_workers_with_a_gpu_go_to_nodes_that_are_kept_for_them_and_aws_machines_have_a_current_driver() -> None:
    for group in _groups():
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            assert {toleration["key"] for toleration in pod["tolerations"]} == {"nvidia.com/gpu"}
    for node in _yaml("ray-aws.yaml")["available_node_types"].values():
        assert node["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/")
