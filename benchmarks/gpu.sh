#!/bin/sh
# All that needs a GPU, in one command of at most 10 minutes: the tests marked `gpu`, each attention kernel against the
# formula (benchmarks/kernel_parity.py), then the peers' tables (benchmarks/peers.py) for encoders of the size of
# BERT-base, MiniLM, ModernBERT-base and DeBERTa-v3-base with random weights, in bf16 (fp16 where a card has no bf16) and
# BERT-base in fp16 everywhere, on made-up texts of CommonLit's lengths (at most 256 tokens of each, as the article's
# loop would be run) and of EmoBank's.
#
#     sh benchmarks/gpu.sh                    # everything, with one or two rounds a table
#     sh benchmarks/gpu.sh                    # again: goes on where it was stopped, with the parts that are not done
#     MINUTES=3 sh benchmarks/gpu.sh base     # one part (tests, kernels, base, minilm, modernbert, deberta, fp16), and
#                                             # more rounds: none begins after so many minutes
#     sh benchmarks/gpu.sh --dry              # every part, tiny and on a CPU: whether the script works
#
# OUT     folder for logs, tables and what is done, default ./gpu-results; gpu.md holds all tables
# PYTHON  default python3. It needs leantune's dependencies, and accelerate for transformers.Trainer, datasets and
#         sentence-transformers for CrossEncoderTrainer, pytest and hypothesis for the tests. leantune itself is taken
#         from this checkout. A peer whose packages are not there is left out of the table, which says so.
# WHEELS  folder of wheels to use beside what is installed, where there is no network
# SHAPES, STEPS, MINUTES, PEERS_OPTIONS  for a trial where there is no GPU:
#         SHAPES=tiny STEPS=2 MINUTES=1 PEERS_OPTIONS="--device cpu --precision fp32" sh benchmarks/gpu.sh base
cd "$(dirname "$0")/.." || exit 1
PART=${1:-all}
PYTHON=${PYTHON:-python3}
if [ "$PART" = --dry ]; then
    PART=all DRY=--dry OUT=${OUT:-gpu-dry-results}
    SHAPES=tiny STEPS=1 MINUTES=0 PEERS_OPTIONS="--device cpu --warm-up 1 --max-length 32 $PEERS_OPTIONS"
fi
OUT=${OUT:-gpu-results}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

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

if [ -z "$DRY" ] && [ -z "$PEERS_OPTIONS" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
then
    echo "benchmarks/gpu.sh needs a CUDA device, and torch finds none here; --dry tries the script on a CPU" >&2
    exit 1
fi

# A part that is done is not done again, but where it is asked for by its name.
part() { { [ "$PART" = all ] && [ ! -e "$OUT/$1.done" ]; } || [ "$PART" = "$1" ]; }

if part tests; then
    # Other versions than those of constraints.txt may warn of other things.
    timeout 120 "$PYTHON" -m pytest -m gpu -q -o filterwarnings=default -p no:cacheprovider \
        $(grep -l 'mark\.gpu' tests/test_*.py) >"$OUT/tests.log" 2>&1
    echo "tests: exit code $?"
    tail -n 15 "$OUT/tests.log"
    touch "$OUT/tests.done"
fi
if part kernels; then
    timeout 90 "$PYTHON" benchmarks/kernel_parity.py $DRY --output "$OUT/kernels.md"
    code=$?
    echo "kernels: exit code $code"
    [ "$code" -gt 1 ] || touch "$OUT/kernels.done"
fi

table() { # name, shape, lengths, minutes after which no round begins, precision, peers
    name=$1 shape=${SHAPES:-$2} lengths=$3 minutes=${MINUTES:-$4} precision=$5
    [ -e "$OUT/$name-$lengths.done" ] && [ "$PART" = all ] && return
    [ -z "$DRY" ] || precision=fp32
    shift 5
    [ -d "$WORK/$shape" ] || "$PYTHON" benchmarks/synthetic.py "$WORK" --shapes "$shape" || return
    # One micro-batch a step is best for all peers where memory is plenty.
    "$PYTHON" benchmarks/peers.py "$WORK/$lengths.csv" --text text --target target --model "$WORK/$shape" \
        --max-length 256 --steps "${STEPS:-40}" --warm-up 4 --rounds 5 --most-minutes "$minutes" --micro-batches 32 \
        --precision "$precision" --peers "$@" --output "$OUT/$name-$lengths.md" $PEERS_OPTIONS &&
        touch "$OUT/$name-$lengths.done"
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
    for page in "$OUT"/kernels.md "$OUT"/*-long.md "$OUT"/*-short.md; do
        [ -e "$page" ] && printf '\n## %s\n\n' "$(basename "$page" .md)" && cat "$page"
    done
} >"$OUT/gpu.md"
echo "all tables: $OUT/gpu.md"
