"""What the doctor says of containers that did not start, by what pyxis, enroot, Apptainer and Python print.

Most samples are from public issues, with other names of nodes and images: NVIDIA/pyxis 68 and 122, apptainer/apptainer
1061, aws-samples/aws-parallelcluster-post-install-scripts 20, wososa/PSI-Sigma 55, wwood/kingfisher-download 29,
harvardinformatics/cactus-snakemake 11.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from tests.launch.doctor.test_diagnose import judged

SQSH, SIF = "/images/bert.sqsh", "/images/bert.sif"

RESOLVE = """\
pyxis: importing docker image: my-registry:5443
slurmstepd: error: pyxis: child 95267 failed with error code: 6
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:     [INFO] Querying registry for permission grant
slurmstepd: error: pyxis:     curl: (6) Could not resolve host: registry-1.docker.io
srun: error: node2: task 9: Exited with exit code 1
"""
CONSEQUENCE = """\
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis: container exited too soon
slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
rank 8: slurmstepd: error: pyxis: container exited too soon
rank 22: slurmstepd: error: pyxis: container start failed with error code: 1
rank 22: slurmstepd: error: pyxis: printing enroot log file:
rank 22: slurmstepd: error: pyxis:     nvidia-container-cli: ldcache error: process /sbin/ldconfig terminated with \
signal 9
rank 22: slurmstepd: error: pyxis:     [ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1
rank 22: slurmstepd: error: pyxis: couldn't start container
srun: error: node3: task 22: Exited with exit code 1
"""
NO_IMAGE = f"""\
slurmstepd-node4: error: pyxis:     [ERROR] No such file or directory: {SQSH}
slurmstepd-node4: error: pyxis: couldn't start container
srun: error: node4: task 30: Exited with exit code 1
"""
NO_COMMAND = """\
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis:     enroot-switchroot: failed to execute: /bin/bash: No such file or directory
srun: error: node2: task 8: Exited with exit code 1
"""
FATAL_MOUNT = """\
rank 9: WARNING: skipping mount of /askapbuffer: stat /askapbuffer: no such file or directory
rank 9: FATAL:   container creation failed: mount /askapbuffer->/askapbuffer error: while mounting /askapbuffer: mount \
source /askapbuffer doesn't exist
srun: error: node2: task 9: Exited with exit code 255
"""
FATAL_SESSION = """\
FATAL:   container creation failed: failed to resolve session directory /easybuild/var/apptainer/mnt/session: lstat \
/easybuild: no such file or directory
srun: error: node1: task 0: Exited with exit code 255
"""
FATAL_REGISTRY = """\
rank 1: FATAL:   Unable to handle docker://woodydon/psi_sigma_pipeline:4.0 uri: failed to get checksum for \
docker://woodydon/psi_sigma_pipeline:4.0: error pinging docker registry registry-1.docker.io: Get \
"https://registry-1.docker.io/v2/": dial tcp 52.1.184.176:443: i/o timeout
"""
FATAL_COMMAND = 'rank 1: FATAL:   "python3": executable file not found in $PATH\n'
ENV = """\
rank 9: /usr/bin/env: 'python3': No such file or directory
srun: error: node2: task 9: Exited with exit code 127
"""
FATAL_IMAGE = f"""\
rank 31: FATAL:   could not open image {SIF}: failed to retrieve path for {SIF}: lstat {SIF}: no such file or directory
"""
BARE = "srun -N1 -w node{} --container-image=/images/bert.sqsh true"


@pytest.mark.parametrize(
    ("image", "log", "sentence", "command"),
    [
        (
            "my-registry:5443#bert", RESOLVE,
            "the image's registry cannot be reached on node2: curl: (6) Could not resolve host: registry-1.docker.io; "
            "fetch the image once where there is a network, and name the file as the image",
            "enroot import -o image.sqsh 'docker://my-registry:5443#bert'",
        ),
        (
            SQSH, CONSEQUENCE,
            "the container does not start on node3: nvidia-container-cli: ldcache error: process /sbin/ldconfig",
            BARE.format(3),
        ),
        (SQSH, NO_IMAGE, f"the image is not visible on node4: [ERROR] No such file or directory: {SQSH}",
         f"srun -N1 -w node4 ls -l {SQSH}"),
        (SQSH, NO_COMMAND, "the image has no /bin/bash on node2: enroot-switchroot:",
         f"bertjobs image {SQSH} --gpus 1"),
        (
            SIF, FATAL_MOUNT,
            "the container does not start on node2: container creation failed: mount /askapbuffer->/askapbuffer",
            f"srun -N1 -w node2 apptainer exec {SIF} true",
        ),
        (SIF, FATAL_SESSION, "the container does not start on node1: container creation failed: failed to resolve",
         f"srun -N1 -w node1 apptainer exec {SIF} true"),
        (
            "docker://woodydon/psi:4.0", FATAL_REGISTRY,
            "the image's registry cannot be reached on node1: Unable to handle docker://woodydon/psi_sigma_pipeline:4.0",
            "apptainer build image.sif docker://woodydon/psi:4.0",
        ),
        (SIF, FATAL_COMMAND, 'the image has no python3 on node1: "python3": executable file not found in $PATH; ',
         f"bertjobs image {SIF} --gpus 1"),
        (SQSH, ENV, "the image has no python3 on node2: /usr/bin/env: 'python3': No such file",
         f"bertjobs image {SQSH} --gpus 1"),
        (SIF, FATAL_IMAGE, f"the image is not visible on node4: could not open image {SIF}: failed to retrieve path",
         f"srun -N1 -w node4 ls -l {SIF}"),
    ],
)  # fmt: skip
def test_a_container_that_does_not_start(
    spec: RunSpec,
    image: str,
    log: str,
    sentence: str,
    command: str,
) -> None:
    verdict = judged(replace(spec, image=image), log=log)
    assert verdict.cause is Cause.CONTAINER
    assert verdict.sentence.startswith(sentence)
    assert verdict.command == command


def test_a_consequence_alone_is_still_a_container(spec: RunSpec) -> None:
    verdict = judged(replace(spec, image=SQSH), log="slurmstepd: error: pyxis: container exited too soon\n")
    assert verdict.cause is Cause.CONTAINER
    assert "container exited too soon" in verdict.sentence


@pytest.mark.parametrize(
    ("log", "module", "node"),
    [
        ("/usr/bin/python3: No module named bertjobs\n", "bertjobs", "node1"),
        ("rank 9: /usr/bin/python3: No module named bertjobs.train\n", "bertjobs", "node2"),
        ("rank 31: /opt/python/bin/python3.12: Error while finding module specification for 'bertjobs.train' "
         "(ModuleNotFoundError: No module named 'bertjobs')\n", "bertjobs", "node4"),
        ('rank 8: Traceback (most recent call last):\nrank 8:   File "/bertjobs/bertjobs/train/worker.py", line 11\n'
         "rank 8:     import torch\nrank 8: ModuleNotFoundError: No module named 'torch'\n", "torch", "node2"),
    ],
)  # fmt: skip
def test_a_python_that_lacks_a_module(spec: RunSpec, log: str, module: str, node: str) -> None:
    inside = judged(replace(spec, image=SQSH, mounts=("/a:/b",), container="pyxis"), log=log)
    assert inside.cause is Cause.MODULE_MISSING
    assert inside.sentence == f"the Python of the image has no module '{module}' on {node}: add it to the image"
    assert inside.command == f"bertjobs image {SQSH} --mounts /a:/b --container pyxis --gpus 1"
    outside = judged(spec, log=log)
    assert outside.sentence.startswith(f"the worker's Python has no module '{module}' on {node}: install it there")
    assert outside.command == f"srun -N1 -w {node} bertjobs image --here"


def test_a_container_s_inside_is_not_its_start(spec: RunSpec) -> None:
    """A rank that names pyxis in a message of its own has crashed for another reason."""
    log = "rank 1: Traceback (most recent call last):\n  File x\nrank 1: RuntimeError: under pyxis and enroot\n"
    assert judged(replace(spec, image=SQSH), log=log).cause is Cause.CRASHED
