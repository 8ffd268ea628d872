#!/bin/sh
# Debian's packages of Slurm, which the tests of launch/ start on this machine alone: setup/slurm.sh
# As root, by apt-get (21 s); otherwise it says what is missing, and changes nothing. No daemon is started here.
set -eu
export DEBIAN_FRONTEND=noninteractive
wanted="slurmctld slurmd slurm-client munge"

missing() {
    for command in slurmctld slurmd sbatch scontrol munged; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || echo "$command"
    done
}

absent=$(missing | tr '\n' ' ')
[ -n "$absent" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Slurm is missing here: ${absent}(as root: apt-get install --no-install-recommends $wanted)" >&2
    exit 2
fi
echo "apt-get install $wanted"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A package must not start daemons with the system's own configuration: policy-rc.d 101 says so where there is none yet.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$log" "$policy"' EXIT
fi
{
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted
} </dev/null >"$log" 2>&1 || { cat "$log" >&2; echo "Slurm is missing here, and apt-get failed: $absent" >&2; exit 1; }
absent=$(missing | tr '\n' ' ')
[ -z "$absent" ] || { echo "error: installed, but not found: $absent" >&2; exit 1; }
