#!/usr/bin/env bash
# Everything that wants a GPU, in one call of under nine minutes; ends in a short table and in $OUT/gpu.json. Where there are
# several GPUs, one is compared with all, with as many shares and with Ray.
#
#   tests/bench/gpu.sh --images FOLDER [--out FOLDER] [--wheels FOLDER] [--device cuda|cpu]
#
# For a bare machine: a Python with torch, torchvision, timm, pyarrow, typer and rich, and no network. What else pyproject.toml
# names is installed from --wheels into an environment of its own, which sees the packages that are there. --device cpu runs
# the same script with small models, to try it; GPUS is how many GPUs there are, or processes, if not as many as are found.
set -euo pipefail
cd "$(dirname "$0")/../.."

device=cuda images='' out=${OUT:-runs/gpu} wheels=''
while (($#)); do
    case $1 in
        --device) device=$2 ;;
        --images) images=$2 ;;
        --out) out=$2 ;;
        --wheels) wheels=$2 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
[[ -d $images ]] || { echo "--images FOLDER: a folder of images without class folders is needed" >&2; exit 2; }
mkdir -p "$out"

python=${PYTHON:-python3}
if [[ -n $wheels ]]; then
    "$python" -m venv --system-site-packages "$out/venv"
    python=$out/venv/bin/python
    "$python" -m pip install --quiet --no-index --find-links "$wheels" \
        zarr numcodecs google-crc32c zstandard simplejpeg pydantic safetensors
    # Without its dependencies: the torch that is there may be older than the one pyproject.toml asks for.
    "$python" -m pip install --quiet --no-index --find-links "$wheels" --no-deps --no-build-isolation .
fi
reinforce=("$python" -m reinforce.cli.main)

if [[ $device == cpu ]]; then
    gpus=${GPUS:-2} on=(--device cpu --processes "$gpus") engines=(--views 2 --size 160 --batch-size 8 --block-size 1 --workers 0)
    students=(test_resnet test_vit) teachers=(test_resnet) live=test_resnet
    step=(--batch-size 8 --size 160 --steps 1 --rounds 2 --no-amp) generate=(--limit 4 --views 2 --rounds 1 --size 160 --batch-size 8)
    loader=(--images 16 --rounds 1 --size 64 --batch-size 8)
else
    gpus=${GPUS:-$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
    on=(--device "$(seq -s, -f 'cuda:%.0f' 0 $((gpus - 1)))" --processes 1)
    workers=$(($(nproc) / gpus)) block=$((gpus < 8 ? 8 / gpus : 1))
    engines=(--views $((32 * gpus)) --block-size "$block" --batch-size 256 --precision bf16 --workers $((workers > 0 ? workers : 1)))
    students=(resnet50 vit_small_patch16_224 mobilenetv3_large_100) teachers=(tresnet_l volo_d1_224) live=tresnet_l
    step=(--batch-size 256 --steps 10 --rounds 5 --amp)
    generate=(--limit 120 --views 32 --rounds 3 --batch-size 256 --precision bf16)
    loader=(--images 1400 --rounds 3)
fi

failed=0
run() { # NAME SECONDS COMMAND...: what fails or takes too long leaves the others standing
    local name=$1 seconds=$2 left=$((530 - SECONDS))
    shift 2
    ((seconds = left < 1 ? 1 : seconds < left ? seconds : left))
    if ! timeout "$seconds" "$@" >"$out/$name.json" 2>"$out/$name.log"; then
        echo "$name failed: $(tail -n 1 "$out/$name.log")" >&2
        rm -f "$out/$name.json"
        failed=1
    fi
}

run step 140 "${reinforce[@]}" bench step "${students[@]/#/--student=}" --teacher "$live" "${step[@]}" --device "$device" --json
for teacher in "${teachers[@]}"; do
    weights=$out/$teacher.safetensors
    "$python" - "$teacher" "$weights" <<'PYTHON'
import sys
import timm
from safetensors.torch import save_file
from reinforce.teachers.short_names import timm_name
model = timm.create_model(timm_name(sys.argv[1]), num_classes=1000)
save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, sys.argv[2])
PYTHON
    run "generate-$teacher" 85 "${reinforce[@]}" bench generate --data "$images" --teacher "$teacher" \
        --teacher-weights "$weights" "${generate[@]}" --device "$device" --json
    if [[ $teacher == "${teachers[0]}" ]]; then
        if ((gpus > 1)); then
            run engines 140 "${reinforce[@]}" bench engines --data "$images" --teacher "$teacher" \
                --teacher-weights "$weights" "${on[@]}" "${engines[@]}" --rounds 1 --json
        else
            echo "engines: skipped, there is one GPU"
        fi
    fi
    rm -f "$weights"
done
run loader 80 "${reinforce[@]}" bench loader --data "$images" --policy rrc --policy rrc-ra "${loader[@]}" --json

"$python" - "$out" <<'PYTHON'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
found = {f.stem: json.loads(f.read_text()) for f in sorted(out.glob("*.json")) if f.stem != "gpu"}
(out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
for name, result in found.items():
    groups = result.get("students") or result.get("policies") or {"": result["rows"]}
    for group, rows in groups.items():
        for row in rows:
            print(f"{name} {group:<24} {row['name']:<32} {row['median']:10.2f} ({row['low']:.2f} to {row['high']:.2f})  ratio {row['ratio']:.3f}")
    print(", ".join(f"{k} {v}" for k, v in result["conditions"].items()))
PYTHON
exit $failed
