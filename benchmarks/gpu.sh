#!/bin/sh
# All that needs a GPU, in one command of at most 10 minutes: the tests marked `gpu`, then the peers' tables
# (benchmarks/peers.py) for encoders of the size of BERT-base and MiniLM with random weights, in bf16, on made-up texts
# of CommonLit's lengths (at most 256 tokens of each, as the article's loop would be run) and of EmoBank's.
#
#     sh benchmarks/gpu.sh                    # everything, with one or two rounds a table
#     MINUTES=3 sh benchmarks/gpu.sh base     # one part (tests, base, minilm), and more rounds: none begins after so many
#
# OUT     folder for logs and tables, default ./gpu-results
# PYTHON  default python3. It needs leantune's dependencies, and accelerate for transformers.Trainer, datasets and
#         sentence-transformers for CrossEncoderTrainer, pytest and hypothesis for the tests. leantune itself is taken
#         from this checkout. A peer whose packages are not there is left out of the table, which says so.
# WHEELS  folder of wheels to use beside what is installed, where there is no network
# SHAPES, STEPS, MINUTES, PEERS_OPTIONS  for a trial where there is no GPU:
#         SHAPES=tiny STEPS=2 MINUTES=1 PEERS_OPTIONS="--device cpu --precision fp32" sh benchmarks/gpu.sh base
cd "$(dirname "$0")/.." || exit 1
PART=${1:-all}
PYTHON=${PYTHON:-python3}
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

part() { [ "$PART" = all ] || [ "$PART" = "$1" ]; }

if part tests; then
    # Other versions than those of constraints.txt may warn of other things.
    timeout 120 "$PYTHON" -m pytest -m gpu -q -o filterwarnings=default -p no:cacheprovider \
        $(grep -l 'mark\.gpu' tests/test_*.py) >"$OUT/tests.log" 2>&1
    echo "tests: exit code $?"
    tail -n 15 "$OUT/tests.log"
fi

table() { # shape, lengths, minutes after which no round begins, peers
    shape=$1 lengths=$2 minutes=${MINUTES:-$3}
    shift 3
    [ -d "$WORK/$shape" ] || "$PYTHON" benchmarks/synthetic.py "$WORK" --shapes "$shape" || return
    # One micro-batch a step is best for all peers where memory is plenty.
    "$PYTHON" benchmarks/peers.py "$WORK/$lengths.csv" --text text --target target --model "$WORK/$shape" \
        --max-length 256 --steps "${STEPS:-60}" --warm-up 6 --rounds 5 --most-minutes "$minutes" --micro-batches 32 --peers "$@" \
        --output "$OUT/$shape-$lengths.md" $PEERS_OPTIONS
}

if part base; then
    table "${SHAPES:-bert-base}" long 1.5 article trainer trainer-tuned cross-encoder
    table "${SHAPES:-bert-base}" short 0.7 article trainer-tuned
fi
if part minilm; then
    table "${SHAPES:-minilm}" long 0.7 article trainer-tuned
    table "${SHAPES:-minilm}" short 0.7 article trainer-tuned
fi
