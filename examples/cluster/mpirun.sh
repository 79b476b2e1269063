#!/bin/bash
# Training on several hosts with Open MPI's mpirun, which starts processes by ssh: one for each slot of the hostfile.
#
#     ./mpirun.sh hosts --solver solver.prototxt --output runs/net/net
#
# The hostfile has a line for each host, as many slots as it has GPUs:
#
#     node1 slots=4
#     node2 slots=4
#
# Arguments after it are those of jaffe train. Started again, it goes on from the last snapshot, also with other hosts.
# See README.md in this folder.

set -euo pipefail

hosts=${1:?expected a hostfile, then the arguments of jaffe train}
shift
# Process 0 runs on the first host; the others must reach it at this port.
coordinator=$(awk '$1 !~ /^(#|$)/ {print $1; exit}' "$hosts"):${PORT:-55527}

prefix=""
arguments=("$@")
for ((i = 0; i < $#; i++)); do
  if [[ ${arguments[i]} == --output ]]; then prefix=${arguments[i + 1]}; fi
done
: "${prefix:?expected --output PREFIX among the arguments: under it the snapshots are found again}"

resume=()
if compgen -G "${prefix}_snapshots/iter_*" > /dev/null; then
  resume=(--snapshot "${prefix}_snapshots")
fi

# JAX gives each process the GPU that has its number on the host.
exec mpirun --hostfile "$hosts" --map-by slot --bind-to none -x PATH -x JAX_COORDINATOR_ADDRESS="$coordinator" \
  jaffe train --distributed "$@" "${resume[@]}"
