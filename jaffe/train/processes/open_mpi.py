"""What Open MPI tells its processes, where JAX does not read it."""

from __future__ import annotations

import os
import re
import zlib
from typing import Any


def open_mpi(coordinator: str = "") -> dict[str, Any] | None:
    """Arguments of ``jax.distributed.initialize`` in a process that mpirun of Open MPI 5 or later started, else None.

    JAX knows Open MPI up to 4 by a variable that 5 has no more; from JAX 0.11 on it asks mpi4py, which needs a build
    for the same MPI. All that is needed stands in other variables. The coordinator is, unless given or named by
    JAX_COORDINATOR_ADDRESS, this host where all processes are on it, else the host where mpirun runs: process 0 must be
    there.
    """
    environment = os.environ
    if "OMPI_COMM_WORLD_SIZE" not in environment or "OMPI_MCA_orte_hnp_uri" in environment:
        return None
    processes = int(environment["OMPI_COMM_WORLD_SIZE"])
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    if not coordinator:
        job = environment.get("PMIX_NAMESPACE", "")  # prterun-HOST-PID@1
        launcher = re.fullmatch(r"\w+-(.+)-\d+@\d+", job)
        together = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 0)) == processes
        host = "localhost" if together or launcher is None else launcher[1]
        # As JAX chooses it: from the last 4096 ports, by job.
        port = environment.get("JAX_COORDINATOR_PORT") or str(65535 - 4095 + zlib.crc32(job.encode()) % 4096)
        coordinator = f"{host}:{port}"
    local = environment.get("JAX_LOCAL_DEVICE_IDS") or environment["OMPI_COMM_WORLD_LOCAL_RANK"]
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": int(environment["OMPI_COMM_WORLD_RANK"]),
        "local_device_ids": [int(device) for device in local.split(",")],
        "cluster_detection_method": "deactivate",
    }
