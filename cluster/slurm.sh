#!/usr/bin/env bash
#SBATCH --job-name=llb-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#
# One run on whole nodes.  From the repository's root, with the environment (`make .venv/.ready`) and all paths on a
# file system that every node sees; what follows the two folders goes to `llb-ray run`:
#
#   sbatch cluster/slurm.sh /shared/photos /shared/runs/photos --set resources.num_gpus=1
set -euo pipefail

data=${1:?the folder of images}
out=${2:?the folder for the results}
shift 2

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
# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "${nodes[0]}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --disable-usage-stats -- \
  bash -c '"$@" && touch "$0"' "$finished" \
  llb-ray run --ray-address auto --data "$data" --out "$out" "$@"

# symmetric-run exits 0 when Ray itself did not start: then there is no such file, and the job fails here.
rm "$finished"
