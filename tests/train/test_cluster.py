"""The launch files of examples/cluster, run: by mpirun, by a stand-in for srun, and as JAX asks Kubernetes."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaffe.cli import app
from tests.conftest import ROOT
from tests.train.test_processes import MPIRUN, TIMEOUT, free_port

CLUSTER = ROOT / "examples" / "cluster"
# In place of jaffe: joins, and tells what it was called with.
JAFFE = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from jaffe.train import processes
processes.join()
import jax
told = f"{{jax.process_index()}} of {{jax.process_count()}}: {{' '.join(sys.argv[1:])}}\\n"
os.write(1, told.encode())  # at once: the others write there too
processes.barrier("here")
if "fails" in sys.argv and not processes.first():
    os.kill(os.getpid(), 9)
processes.leave()
"""
SRUN = """#!/bin/bash
shift
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids[i]=$!; done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*"
"""


@pytest.fixture
def launched(tmp_path):
    """Runs a script of examples/cluster with stand-ins for jaffe and SLURM's commands, in an empty folder."""
    (tmp_path / "bin").mkdir()
    for name, text in (("jaffe", JAFFE), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "hosts").write_text("# two processes\n\nlocalhost slots=2\n")

    def launch(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path / "bin"), str(Path(MPIRUN or "/").parent), os.environ["PATH"]])
        return subprocess.run(
            ["bash", str(CLUSTER / script), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT,
            check=False, env={**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu", "PORT": str(free_port()),
                              "SLURM_JOB_ID": str(secrets.randbelow(10**6)), "OMPI_ALLOW_RUN_AS_ROOT": "1",
                              "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PRTE_MCA_rmaps_default_mapping_policy": ""})

    return launch


SCRIPTS = [
    pytest.param(["train.slurm"], id="slurm"),
    pytest.param(["mpirun.sh", "hosts"], id="mpirun",
                 marks=pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(script, launched, tmp_path):
    options = ["--solver", "solver.prototxt", "--output", "runs/net/net"]
    done = launched(*script, *options)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if " of " in line) == [
        f"{i} of 2: train --distributed {' '.join(options)}" for i in range(2)]
    (tmp_path / "runs/net/net_snapshots/iter_100").mkdir(parents=True)
    done = launched(*script, *options)
    assert done.stdout.count(f"train --distributed {' '.join(options)} --snapshot runs/net/net_snapshots\n") == 2
    done = launched(*script, "--solver", "solver.prototxt")
    assert done.returncode != 0
    assert "expected --output PREFIX" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_when_a_process_dies(script, launched):
    done = launched(*script, "--output", "net", "fails")
    assert done.returncode != 0
    if script == ["train.slurm"]:  # mpirun ends the others, too, and may be first
        assert re.search(r"jaffe: process 1 \(host .*\) ended; this run cannot go on without it", done.stderr)
        assert "scontrol requeue" in done.stdout


@pytest.mark.parametrize("script", ["train.slurm", "mpirun.sh"])
def test_syntax(script):
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(CLUSTER / script)], check=True)


# Kubernetes as JAX asks it, with the objects of kubernetes.yaml and what Kubernetes itself adds to them.
KUBERNETES = """
from types import SimpleNamespace as Namespace
import yaml

documents = {one["kind"]: one for one in yaml.safe_load_all(open(FILE))}
job, service = documents["Job"], documents["Service"]
template = job["spec"]["template"]
name = job["metadata"]["name"]
allowed = {(resource, verb) for rule in documents["Role"]["rules"] for resource in rule["resources"]
           for verb in rule["verbs"]}
assert template["spec"]["serviceAccountName"] == documents["ServiceAccount"]["metadata"]["name"]
assert template["spec"]["subdomain"] == service["metadata"]["name"]
assert documents["RoleBinding"]["subjects"][0]["name"] == documents["ServiceAccount"]["metadata"]["name"]
assert documents["RoleBinding"]["roleRef"]["name"] == documents["Role"]["metadata"]["name"]

class Api:
    def list_namespaced_pod(self, **_):
        assert ("pods", "list") in allowed
        labels = {**template["metadata"]["labels"], "job-name": name}
        assert service["spec"]["selector"].items() <= labels.items()
        owner = Namespace(controller=True, kind="Job")
        return Namespace(items=[Namespace(
            metadata=Namespace(name=f"{name}-1-x", labels=labels, owner_references=[owner]),
            spec=Namespace(subdomain=template["spec"]["subdomain"]))])

    def read_namespaced_job(self, **kwargs):
        assert ("jobs", "get") in allowed and kwargs["name"] == name
        return Namespace(metadata=Namespace(name=name, labels=job["metadata"]["labels"]),
                         spec=Namespace(parallelism=job["spec"]["parallelism"]))

config = Namespace(load_incluster_config=lambda: None)
client = Namespace(CoreV1Api=Api, BatchV1Api=Api, exceptions=Namespace(ApiException=OSError))
"""
ASK = """
import os
from jax._src.clusters import ClusterEnv, k8s_cluster
k8s_cluster.K8sCluster._namespace = classmethod(lambda cls: "default")
os.environ.update(KUBERNETES_SERVICE_HOST="here", HOSTNAME="localhost", JOB_COMPLETION_INDEX="1")
print(*ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, None))
"""


def test_kubernetes(tmp_path):
    (tmp_path / "kubernetes.py").write_text(KUBERNETES.replace("FILE", repr(str(CLUSTER / "kubernetes.yaml"))))
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=TIMEOUT, check=False,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout.split() == ["jaffe-0.jaffe:55527", "2", "1", "None"], done.stderr


def test_kubernetes_counts():
    """The number of processes stands in several places."""
    import yaml

    *_, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert job["spec"]["backoffLimit"] == 5 * job["spec"]["parallelism"]


def test_options():
    """What the files say of ``jaffe train`` is what it takes."""
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    commands = [command for path in CLUSTER.iterdir()
                for command in re.findall(r"jaffe train(.*?)(?:`|$)", path.read_text(), re.MULTILINE)]
    named = {option for command in commands for option in re.findall(r"--[a-z-]+", command)}
    named |= {"--snapshot", "--output", "--process"}  # named elsewhere in them
    assert named >= {"--distributed", "--coordinator", "--processes", "--solver"}
    assert named <= set(re.findall(r"--[a-z-]+", shown))
