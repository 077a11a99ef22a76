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

# command
export SUBMITIT_EXECUTOR=slurm
exec bash '/lustre/runs#1/first/phase1/run.sub' -u -m submitit.core._submit '/lustre/runs#1/first/submitit'
