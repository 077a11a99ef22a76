#!/bin/bash
# Runs Python in a container.
set -uo pipefail
SLURM_GPUS_ON_NODE=2
export IMAGE='/images/x y.sqsh'
export MOUNTS=/a:/b
export CONTAINER=apptainer
export BERTJOBS_CODE=/code
export BERTJOBS_ENVIRONMENT=TOKEN
# ...
mount "$PWD" :ro
mount '/data/it'"'"'s' :ro
mount /out ''
enter IMAGE,MOUNTS
exec srun --export=ALL --mpi=none --ntasks=1 "${container[@]}" "${inside[@]}" "${BERTJOBS_PYTHON:-python3}" "$@"
