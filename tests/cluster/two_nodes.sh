#!/usr/bin/env bash
# Two machines in one: network, process and mount namespaces of their own, on one file system, as nodes of Slurm are.
# Runs a batch script with stand-ins for `srun` and `scontrol`; from within `unshare --net --pid --mount --fork`, so
# that all of it is gone at the end.
#
#   two_nodes.sh FOLDER SCRIPT ARGUMENT ...
set -euo pipefail
folder=$1
shift

holders=()
for node in 1 2; do
  mkdir -p "$folder/ray$node"
  # Not a plain sleep: the first process of a namespace must bury the others' dead, or Ray waits for them.
  unshare --net --pid --mount --mount-proc --fork bash -c 'while true; do sleep 1; done' &
  until holder=$(pgrep --parent $!); do sleep 0.1; done
  holders+=("$holder")
done
ip link add name wire1 netns "${holders[0]}" type veth peer name wire2 netns "${holders[1]}"
for node in 1 2; do
  enter=(nsenter --target "${holders[node - 1]}" --net)
  "${enter[@]}" ip address add "10.77.0.$node/24" dev "wire$node"
  "${enter[@]}" ip link set lo up
  "${enter[@]}" ip link set "wire$node" up
  "${enter[@]}" ip route add default dev "wire$node"
done

mkdir -p "$folder/bin"
cat > "$folder/bin/scontrol" <<'END'
#!/usr/bin/env bash
printf '10.77.0.1\n10.77.0.2\n'
END
cat > "$folder/bin/srun" <<END
#!/usr/bin/env bash
while [[ \$1 == --* ]]; do shift; done
RAY_TMPDIR=$folder/ray2 nsenter --target ${holders[1]} --net --pid --mount --wdns="\$PWD" "\$@" > $folder/worker.log 2>&1 &
worker=\$!
RAY_TMPDIR=$folder/ray1 nsenter --target ${holders[0]} --net --pid --mount --wdns="\$PWD" "\$@"
status=\$?
wait \$worker || status=\$?
exit \$status
END
chmod +x "$folder/bin/scontrol" "$folder/bin/srun"

export PATH=$folder/bin:$PATH SLURM_SUBMIT_DIR=$folder SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST='node[1-2]'
export SLURM_CPUS_ON_NODE=2
bash "$@"
