#!/bin/sh
# Train, cut and score the gaze networks, what can run side by side doing so; the published schedule, which removes few
# maps at a time, goes last and may take ten minutes more than the six that the rest takes on one H100.
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
    part ours "$@" $student --ways "ours" "uniform width" &
    part fisher "$@" $student --ways "Fisher, automatic beta" "Fisher with FLOPs" &
    part peers "$@" $student --ways "Torch-Pruning, GroupMagnitude" "Fisher, beta = 0" &
    part dense "$@" --resume "$work/trained" --networks deepgaze-vgg19 densegaze fastgaze-vgg11 \
        --ways "Torch-Pruning, GroupTaylor" &
    wait
}
part mobile "$@" --resume "$work/trained" --networks mobilenetv2 --curve mobilenetv2 --ratios 2 4 8 \
    --ways "ours" "uniform width" "Fisher, automatic beta" "Fisher with FLOPs" "Torch-Pruning, GroupTaylor" \
    --total-seconds 60
part dense-cut "$@" --resume "$work/dense" --networks deepgaze-vgg19 densegaze --curve densegaze --ratios 2 4 8 \
    --ways "ours" "uniform width" --total-seconds 60
part squeeze "$@" --resume "$work/trained" --networks deepgaze-vgg19 squeezegaze --curve squeezegaze --ratios 2 4 8 \
    --ways "ours" "uniform width" "Fisher with FLOPs" --total-seconds 120
part one-at-a-time "$@" --resume "$work/mobile" --networks mobilenetv2 --curve mobilenetv2 --ratios 2 4 8 \
    --ways "Fisher, automatic beta, one at a time" "Fisher with FLOPs, one at a time" "Fisher, beta = 0, one at a time" \
    --maps-a-removal 8 --total-seconds 600
names="trained ours fisher peers dense mobile dense-cut squeeze one-at-a-time"
folders=""
for name in $names; do
    [ -f "$work/$name/gaze_networks.json" ] && folders="$folders $work/$name"
done
# shellcheck disable=SC2086
part together "$@" --resume $folders --networks --curve --teachers 0 --gpu-latency --without deepgaze-vgg19
cp "$work"/together/* "$out"
cd "$out" && for name in $names together; do
    cut -c 1-2000 "$name.log" >>training.log && rm "$name.log"
done
