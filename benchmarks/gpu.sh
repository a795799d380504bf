#!/bin/sh
# All that needs a GPU, in one command: the tests marked `gpu`, each attention kernel against the formula
# (benchmarks/kernel_parity.py), whether torch.compile would pay (benchmarks/compiled_parts.py), whether `micro_batch:
# auto` fits (benchmarks/gpu_memory.py), a whole run of `leantune train`, then the peers' tables (benchmarks/peers.py) for
# encoders of the size of BERT-base, MiniLM, ModernBERT-base and DeBERTa-v3-base with random weights, in bf16 (fp16 where
# a card has no bf16) and BERT-base in fp16 everywhere, on made-up texts of CommonLit's lengths (at most 256 tokens of
# each, as the article's loop would be run) and of EmoBank's.
#
#     sh benchmarks/gpu.sh                    # everything, with one or two rounds a table; made for half an hour
#     sh benchmarks/gpu.sh                    # again: goes on where it was stopped, with the parts that are not done
#     MINUTES=3 sh benchmarks/gpu.sh base     # one part (tests, kernels, compiled, memory, run, base, minilm, modernbert,
#                                             # deberta, fp16), and more rounds: none begins after so many minutes
#     sh benchmarks/gpu.sh --dry [PART]       # every part, tiny and on a CPU: whether the script works
#
# Ends with exit code 1 where a part failed; the others are done all the same.
#
# OUT     folder for logs, tables and what is done, default ./gpu-results; gpu.md holds all tables
# PYTHON  default python3. It needs leantune's dependencies, and accelerate for transformers.Trainer, datasets and
#         sentence-transformers for CrossEncoderTrainer, pytest and hypothesis for the tests. leantune itself is taken
#         from this checkout. A peer whose packages are not there is left out of the table, which says so.
# WHEELS  folder of wheels to use beside what is installed, where there is no network
# STEPS   timed optimizer steps of a table, default 40
cd "$(dirname "$0")/.." || exit 1
DRY='' DEVICE=auto
if [ "$1" = --dry ]; then
    shift
    DRY=--dry DEVICE=cpu OUT=${OUT:-gpu-dry-results} STEPS=${STEPS:-1} MINUTES=0
fi
PART=${1:-all}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-gpu-results}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

case $PART in
    all | tests | kernels | compiled | memory | run | base | minilm | modernbert | deberta | fp16) ;;
    *) echo "benchmarks/gpu.sh: there is no part $PART" >&2 && exit 2 ;;
esac
if [ -n "$WHEELS" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$WORK/site" "$WHEELS"/*.whl || exit 1
fi
if ! "$PYTHON" -c 'import importlib.metadata as found; found.version("leantune")' 2>/dev/null; then
    # A run notes the version of leantune, which a checkout alone does not tell.
    mkdir -p "$WORK/site/leantune-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: leantune\nVersion: 0\n' >"$WORK/site/leantune-0.dist-info/METADATA"
fi
export PYTHONPATH="$PWD/src:$WORK/site${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" -c 'import leantune.runs.run, torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())' ||
    exit 1

if [ -z "$DRY" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "benchmarks/gpu.sh needs a CUDA device, and torch finds none here; --dry tries the script on a CPU" >&2
    exit 1
fi

FAILED=''
# A part that is done is not done again, but where it is asked for by its name.
part() { { [ "$PART" = all ] && [ ! -e "$OUT/$1.done" ]; } || [ "$PART" = "$1" ]; }

# What a part came to: its name, its exit code, and the code up to which it is done (1 where it tells a result).
ended() {
    echo "$1: exit code $2"
    [ "$2" = 0 ] || FAILED="$FAILED $1"
    [ "$2" -gt "${3:-0}" ] || touch "$OUT/$1.done"
}

encoders() { # shapes: makes those that are not there, and the tables of texts
    for shape in "$@"; do
        [ -d "$WORK/$shape" ] || "$PYTHON" benchmarks/synthetic.py "$WORK" --shapes "$shape" ${DRY:+--tiny} || return
    done
}

if part tests; then
    [ -z "$DRY" ] || export GPU_TESTS_ON_CPU=1
    # Other versions than those of constraints.txt may warn of other things.
    timeout 300 "$PYTHON" -m pytest -m gpu -q -o filterwarnings=default -p no:cacheprovider \
        $(grep -rl --include='test_*.py' 'mark\.gpu' tests) >"$OUT/tests.log" 2>&1
    code=$?
    tail -n 15 "$OUT/tests.log"
    ended tests $code
fi
if part kernels; then
    timeout 120 "$PYTHON" benchmarks/kernel_parity.py $DRY --output "$OUT/kernels.md"
    ended kernels $? 1
fi
if part compiled; then
    timeout 120 "$PYTHON" benchmarks/compiled_parts.py --device $DEVICE --tokens 672 8192 \
        ${DRY:+--hidden 32 --tokens 32 --rounds 1 --steps 1} >"$OUT/compiled.md"
    code=$?
    cat "$OUT/compiled.md"
    ended compiled $code
fi
if part memory; then
    encoders bert-base minilm modernbert-base deberta-v3-base &&
        timeout 240 "$PYTHON" benchmarks/gpu_memory.py "$WORK" --shapes bert-base minilm modernbert-base deberta-v3-base \
            --device $DEVICE ${DRY:+--rows 64} --output "$OUT/memory.md"
    ended memory $? 1
fi
if part run; then
    rm -rf "$OUT/run"
    encoders bert-base &&
        timeout 300 "$PYTHON" -m leantune train "$WORK/long.csv" --text text --target target --model "$WORK/bert-base" \
            --output "$OUT/run" --set optimizer.epochs=1 --set device=$DEVICE ${DRY:+--set data.limit=60} \
            >"$OUT/run.log" 2>&1
    code=$?
    tail -n 40 "$OUT/run.log"
    ended run $code
fi

table() { # name, shape, lengths, minutes after which no round begins, precision, peers
    name=$1 shape=$2 lengths=$3 minutes=${MINUTES:-$4} precision=$5
    [ -e "$OUT/$name-$lengths.done" ] && [ "$PART" = all ] && return
    [ -z "$DRY" ] || precision=fp32
    shift 5
    # One micro-batch a step is best for all peers where memory is plenty.
    encoders "$shape" &&
        "$PYTHON" benchmarks/peers.py "$WORK/$lengths.csv" --text text --target target --model "$WORK/$shape" \
            --max-length 256 --steps "${STEPS:-40}" --warm-up 4 --rounds 5 --most-minutes "$minutes" --micro-batches 32 \
            --precision "$precision" --peers "$@" --output "$OUT/$name-$lengths.md" \
            --device $DEVICE ${DRY:+--warm-up 1 --max-length 32}
    ended "$name-$lengths" $?
}

if part base; then
    table base bert-base long 1.2 auto article trainer trainer-tuned cross-encoder
    table base bert-base short 0.5 auto article trainer-tuned
fi
if part minilm; then
    table minilm minilm long 0.5 auto article trainer-tuned
    table minilm minilm short 0.5 auto article trainer-tuned
fi
if part modernbert; then
    table modernbert modernbert-base long 0.5 auto article trainer-tuned
fi
if part deberta; then
    table deberta deberta-v3-base long 0.5 auto article trainer-tuned
fi
if part fp16; then
    table fp16 bert-base long 0.5 fp16 article trainer-tuned
fi

{
    echo "# On a GPU"
    for page in "$OUT"/kernels.md "$OUT"/compiled.md "$OUT"/memory.md "$OUT"/*-long.md "$OUT"/*-short.md; do
        [ -e "$page" ] && printf '\n## %s\n\n' "$(basename "$page" .md)" && cat "$page"
    done
} >"$OUT/gpu.md"
echo "all tables: $OUT/gpu.md"
[ -z "$FAILED" ] || { echo "failed:$FAILED" >&2 && exit 1; }
