"""The files for clusters in docs/: valid by Kubernetes' and KubeRay's schemas, with commands and options that exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from supernet.cli import evolve, methods

kubernetes = pytest.importorskip("kubernetes_validate")
jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

DOCS = Path(__file__).parents[1] / "docs"
VERSION = "1.34"  # of Kubernetes
RAYJOB = json.loads((Path(__file__).parent / "data" / "rayjob.schema.json").read_text())


def read(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DOCS / "kubernetes" / name).read_text()))


def validate(resource: dict) -> None:
    """Raise a ValidationError where a field is unknown, lacking or of another type."""
    if resource["kind"] != "RayJob":
        kubernetes.validate(resource, VERSION, strict=True)
        return
    jsonschema.Draft202012Validator(RAYJOB).validate(resource)
    cluster = resource["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes.validate(pod, VERSION, strict=True)


def options(command: type) -> set[str]:
    return {f"--{name.replace('_', '-')}" for name in command.__dataclass_fields__} | {"--folder"}


def flags(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize("name", ["train.yaml", "search.yaml"])
def test_manifests_are_valid(name):
    for resource in read(name):
        validate(resource)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("train.yaml", ("spec", "template", "spec", "containers", 0)),
        ("search.yaml", ("spec", "rayClusterSpec", "workerGroupSpecs", 0)),
        ("search.yaml", ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0)),
    ],
)
def test_a_field_that_does_not_exist_is_seen(name, path):
    resource = inner = read(name)[-1]
    for step in path:
        inner = inner[step]
    inner["volumeMount"] = []
    with pytest.raises(jsonschema.ValidationError):
        validate(resource)


def test_the_pods_of_a_training_find_each_other():
    service, job = read("train.yaml")
    pod = job["spec"]["template"]["spec"]
    command = get_args_parser().parse_args(pod["containers"][0]["command"][1:])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    (port,) = service["spec"]["ports"]
    assert command.rdzv_endpoint == f"{job['metadata']['name']}-0.{pod['subdomain']}:{port['port']}"
    assert int(command.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert flags(command.training_script_args) <= options(methods.Spos)


def test_the_search_has_the_options_of_evolve():
    (job,) = read("search.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["python", "tools/evolve.py"]
    assert flags(words) <= options(evolve.Args)


@pytest.mark.parametrize("name", ["train", "search"])
def test_slurm_files_are_shell_and_end_in_a_command_of_ours(name):
    path = DOCS / "slurm" / f"{name}.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    tool, given = re.search(r"tools/(\w+)\.py (.*)", path.read_text()).groups()
    command = {"train_supernet": methods.Spos, "evolve": evolve.Args}[tool]
    assert flags(shlex.split(given)) <= options(command)
