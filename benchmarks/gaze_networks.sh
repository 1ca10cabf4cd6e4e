#!/bin/sh
# Train, cut and score the gaze networks, what can run side by side doing so; about six minutes on one H100.
#
#     benchmarks/gaze_networks.sh DATA OUT [further arguments of train_gaze_networks.py]
set -u
data=$1
out=$2
shift 2
here=$(dirname "$0")
work=$(mktemp -d)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
mkdir -p "$out"

part() {
    name=$1
    shift
    "${PYTHON:-python}" "$here/train_gaze_networks.py" "$data" --out "$work/$name" "$@" >"$out/$name.log" 2>&1 ||
        echo "$name failed: $(tail -n 1 "$out/$name.log")"
    echo "$name has ended after $(($(date +%s) - started)) s"
}

started=$(date +%s)
part trained "$@" --networks deepgaze-vgg19 fastgaze-vgg11 --curve
student="--resume $work/trained --networks deepgaze-vgg19 fastgaze-vgg11"
# shellcheck disable=SC2086
{
    part ours "$@" $student --ways "ours" "Fisher, automatic beta" &
    part fisher "$@" $student --ways "Fisher with FLOPs" "Fisher, beta = 0" "uniform width" &
    part peers "$@" $student --ways "Torch-Pruning, GroupTaylor" "Torch-Pruning, GroupMagnitude" &
    part dense "$@" --resume "$work/trained" --networks deepgaze-vgg19 densegaze --curve densegaze --ratios 2 4 8 \
        --ways "ours" "uniform width" &
    wait
}
folders=""
for name in trained ours fisher peers dense; do
    [ -f "$work/$name/gaze_networks.json" ] && folders="$folders $work/$name"
done
# shellcheck disable=SC2086
part together "$@" --resume $folders --networks --curve --teachers 0 --gpu-latency --without deepgaze-vgg19
cp "$work"/together/* "$out"
(cd "$out" && cat trained.log ours.log fisher.log peers.log dense.log together.log | cut -c 1-2000 >training.log &&
    rm trained.log ours.log fisher.log peers.log dense.log together.log)
