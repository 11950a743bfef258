#!/usr/bin/env bash
#SBATCH --job-name=llb-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#
# One run, scan or search on whole nodes, all their memory and cores.  From the repository's root, with the environment
# (`make .venv/.ready`) and all paths on a file system that every node sees; the arguments are those of `llb-ray`:
#
#   sbatch cluster/slurm.sh run --data /shared/photos --out /shared/runs/photos --set resources.num_gpus=1
#   sbatch --nodes=8 --gpus-per-node=4 cluster/slurm.sh scan --config configs/real_iad_fuiad.yaml \
#     --root /shared/real_iad --out /shared/runs/fuiad
set -euo pipefail

command=${1:?a command that takes --ray-address: run, scan, certify or tune}
shift

# shellcheck disable=SC1091
source "${LLB_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

# A token for this job alone; srun hands the environment on to every node.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))
finished=$SLURM_SUBMIT_DIR/.llb-ray-$SLURM_JOB_ID

# Starts Ray on every node, the command on the first, and stops Ray at the end (every Ray of the node: --exclusive).
# Without --cpus-per-task a step is bound to one core, and Ray would count the others as its own.
# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" \
  ray symmetric-run --address "${nodes[0]}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --disable-usage-stats -- \
  bash -c '"$@" && touch "$0"' "$finished" \
  llb-ray "$command" --ray-address auto "$@"

# symmetric-run exits 0 when Ray itself did not start: then there is no such file, and the job fails here.
rm "$finished"
