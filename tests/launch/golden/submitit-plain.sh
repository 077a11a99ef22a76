#!/bin/bash

# Parameters
#SBATCH --account=me
#SBATCH --dependency=afterany:17:18
#SBATCH --exclude=node7
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --job-name=first-phase1
#SBATCH --mem=0
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output='/lustre/runs#1/first/phase1/logs/slurm-%j.out'
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=4:00:00

# setup
umask 077
trap terminated=1 TERM # else this shell would leave the ranks alone while they write a checkpoint
cpus=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / SLURM_NTASKS_PER_NODE))}
((cpus > 0)) || cpus=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
# Rank 0 listens on the first node, which is this one, on a free port of this job's own below the ephemeral range.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
export MASTER_ADDR=${address:-$first} MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
while (exec 3<>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
# What Slurm says of the attempt before, for the journal, where that attempt could not write its own end.
BERTJOBS_LAST_STATE=$(sacct -nXDP -j "$SLURM_JOB_ID" -o State 2>/dev/null | head -n -1 | tail -n 1)
export BERTJOBS_LAST_STATE

# command
export SUBMITIT_EXECUTOR=slurm
srun --export=ALL --ntasks-per-node=8 --kill-on-bad-exit=1 --wait=60 --label --open-mode=append --cpu-bind=none --cpus-per-task="$cpus" --output='/lustre/runs#1/first/phase1/logs/'"$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}.out" /opt/python -u -m submitit.core._submit '/lustre/runs#1/first/submitit'
