#!/bin/bash
# bash experiments/online.sh CONFIG OFFLINE_RUN OUT STEPS INTERVAL [OPTION...]
# Fine-tunes the policies of a finished run three ways, evaluated every INTERVAL steps, and draws the curves in one
# picture, OUT/plots: λ cooled to a fifth (which it has after four fifths of STEPS), λ constant, and TD3 without a regulariser. The same command resumes.
set -e
[ $# -ge 5 ] || { sed -n 2,4p "$0" >&2; exit 2; }
config=$1 offline=$2 out=$3 steps=$4 interval=$5
shift 5
run() {
  python -m spot_jax.main --config="$config" --workdir="$out/$1" --config.online.restore="$offline" \
    --config.online.steps="$steps" --config.evaluation.interval="$interval" --config.checkpoint.interval="$interval" "${@:2}"
}
run cooled --config.online.cooling_steps="$steps" "$@"
run constant --config.online.cooling_steps=0 "$@"
run none --config.online.cooling_steps=0 --config.regularizer.name=none "$@"
python -m spot_jax.plot "$out"/{cooled,constant,none} --output="$out/plots" --overwrite
