"""Batch plan: which rows make which optimizer step, in which micro-batch, and which of their windows are read. Pure
integers.

    lengths [N] -> rows [N], cut three times:

    1. rows are drawn in an order that depends on (seed, epoch)           order [N]
    2. every `batch_size` of them make an optimizer step                  steps [S, B], and the incomplete last one
    3. within a step they are sorted by length, longest first, and cut
       into micro-batches that fit the memory                             M micro-batches

1 and 2 decide what is learned, and never look at micro-batches or layout; 3 decides what it costs, and never moves a
row to another step. `N` rows, `S` optimizer steps, `B` rows a step, `M` micro-batches.

Where a long row is read in several windows, a step is still of `batch_size` rows: the windows take their row's place
between 2 and 3. `R` windows are read in an epoch; R is N where one of each row is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from leantune.system.settings import Section

IntArray = NDArray[np.int64]
Order = Literal["random", "uniform_length"]
WindowsRead = Literal["one", "all"]
"""What an epoch reads of a row that has several windows: one of them, in each epoch another, or all."""
Padding = int | Literal["longest", "equal", "none"]
"""What the rows of a micro-batch are padded to: so many tokens, or its longest row; or they are not padded, since they
are of equal length (for models whose results padding changes) or packed (none)."""

PACKED_MULTIPLE = 16
"""A packed row is filled up to a multiple of so many tokens: kernels are made anew for every length of a row, and on a
CPU that costs more than the few tokens do (docs/design/0005-the-step-on-a-cpu.md)."""

STEPS_A_POOL = 50
"""Optimizer steps whose rows `uniform_length` sorts together: more of them pad less, but vary less between epochs."""


class RowsPerMicroBatch(Section):
    """Micro-batches of at most so many rows."""

    rows: int = Field(ge=1)
    """Most rows that are computed at once; of rows that are read in windows, most windows."""


class TokensPerMicroBatch(Section):
    """Micro-batches of at most so many tokens, padding included; a longer row is alone."""

    tokens: int = Field(ge=1)
    """Most positions (rows x padded length) that are computed at once."""


MicroBatch = RowsPerMicroBatch | TokensPerMicroBatch


class BatchingSettings(Section):
    """How rows become batches."""

    batch_size: int = Field(default=32, ge=1)
    """Number of rows in an optimizer step, however they are computed (`micro_batch`, `layout`)."""

    micro_batch: Literal["auto"] | MicroBatch = "auto"
    """How much is computed at once: `auto`, `{rows: 8}` or `{tokens: 4096}`. It changes memory and time, and not what
    is learned. auto is measured on a CUDA device: as many tokens as fit into its free memory, up to a whole step of
    packed rows. On any other device it is a fixed number of tokens."""

    order: Order = "random"
    """Which rows share an optimizer step: any rows (`random`), or rows of similar length (`uniform_length`).
    `uniform_length` needs less padding, but changes what is learned: batches are less varied, and some trainings
    become unstable."""

    layout: Literal["auto", "fixed", "dynamic", "packed"] = "auto"
    """How the rows of a micro-batch become one tensor: padded to the longest row of the table (`fixed`), padded to the
    longest row of the micro-batch (`dynamic`), or joined into one long row almost without padding (`packed`). It
    changes memory and time, and not what is learned. auto is packed where the architecture allows it, else dynamic."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatches:
    """Rows cut into micro-batches: a sequence of int64 arrays, each with the numbers of its rows, longest first."""

    rows: IntArray
    """[R]: numbers of rows, micro-batch after micro-batch; a row stands there once for each window that is read."""

    offsets: IntArray
    """[M + 1]: micro-batch `m` is `rows[offsets[m] : offsets[m + 1]]`; none is empty."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> IntArray:
        if not 0 <= index < len(self):
            raise IndexError(f"micro-batch {index} of {len(self)}")
        return self.rows[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[IntArray]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One optimizer step."""

    rows: IntArray
    """Numbers of the step's rows: what its loss is divided by. Their order means nothing."""

    micro_batches: tuple[IntArray, ...]
    """The same numbers, micro-batch by micro-batch, longest first, each once for each window that is read of it."""

    windows: tuple[IntArray, ...] | None
    """Which of its row's windows each of these is, from 0; None where every row has one only."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan:
    """The optimizer steps of one epoch: a sequence, in compressed form."""

    micro_batches: MicroBatches
    """Of all steps, step after step."""

    step_offsets: IntArray
    """[S + 1]: step `s` has the micro-batches from `step_offsets[s]` up to the next offset."""

    windows: IntArray | None
    """[R]: which of its row's windows each of `micro_batches.rows` is, from 0; None where every row has one only."""

    def __len__(self) -> int:
        return len(self.step_offsets) - 1

    def step(self, index: int) -> Step:
        """Return step `index`, from 0; IndexError if there is no such step."""
        if not 0 <= index < len(self):
            raise IndexError(f"step {index} of {len(self)}")
        begin, end = self.step_offsets[index : index + 2]
        offsets = self.micro_batches.offsets[begin : end + 1]
        rows = self.micro_batches.rows[offsets[0] : offsets[-1]]
        if self.windows is not None:  # the windows of a row follow each other
            rows = rows[np.insert(rows[1:] != rows[:-1], 0, True)]
        return Step(
            rows=rows,
            micro_batches=tuple(self.micro_batches[m] for m in range(begin, end)),
            windows=None if self.windows is None else tuple(self.windows[slice(*two)] for two in pairwise(offsets)),
        )


def plan_epoch(
    lengths: NDArray[np.integer[Any]],
    *,
    batch_size: int,
    micro_batch: MicroBatch,
    order: Order,
    padding: Padding,
    seed: int,
    epoch: int,
    windows: NDArray[np.integer[Any]] | None = None,
    windows_read: WindowsRead = "one",
) -> EpochPlan:
    """Plan the optimizer steps of one epoch: a pure function of its arguments.

    Every row is in exactly one step. A step has `batch_size` rows, the last one perhaps fewer; which rows share a step
    depends on `batch_size`, `order`, `seed` and `epoch` (and on the lengths, for `uniform_length`), on nothing else.

    `lengths` are the rows' numbers of tokens, [N], at least 1. `padding` is what a micro-batch's rows are padded to.
    `seed` and `epoch` are 0 to 2**32 - 1. `windows` are the rows' numbers of windows, [N], at least 1, each of the
    row's length; None is one each. Which rows share a step does not depend on them. Raises ValueError for a length
    below 1 or above a fixed `padding`, for a row without a window, and for a seed or epoch out of range.
    """
    lengths = _checked(lengths, padding)
    if windows is not None and (windows < 1).any():
        raise ValueError(f"a row of {windows.min()} windows: every row needs at least one")
    drawn = _draw(lengths, batch_size, order, _random(seed, epoch))
    complete = len(drawn) // batch_size * batch_size
    blocks = [drawn[:complete].reshape(-1, batch_size)]
    if complete < len(drawn):
        blocks.append(drawn[np.newaxis, complete:])
    rows = np.concatenate([_longest_first(block, lengths).ravel() for block in blocks])
    step_offsets = _offsets(np.concatenate([np.full(len(block), block.shape[1]) for block in blocks]))
    read: IntArray | None = None
    if windows is not None and windows_read == "one":
        read = draw_windows(windows, seed, epoch)[rows]
    elif windows is not None:
        step_offsets = _offsets(windows[rows])[step_offsets]
        rows, read = all_windows(rows, windows[rows])
    micro_batches = _cut(rows, step_offsets, lengths, micro_batch, padding)
    return EpochPlan(
        micro_batches=micro_batches,
        step_offsets=np.searchsorted(micro_batches.offsets, step_offsets).astype(np.int64, copy=False),
        windows=read,
    )


def all_windows(rows: IntArray, windows: NDArray[np.integer[Any]]) -> tuple[IntArray, IntArray]:
    """Return all windows of `rows` [n], which have `windows` [n] each, row after row: whose they are, and which, from
    0; both [R]."""
    counts = windows.astype(np.int64, copy=False)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), np.arange(len(first), dtype=np.int64) - first


def draw_windows(windows: NDArray[np.integer[Any]], seed: int, epoch: int) -> IntArray:
    """Choose the window that an epoch reads of each row, [N], of which a row has `windows`.

    The first epoch's is drawn from the seed, and each later epoch takes the next one, the first after the last: as many
    epochs as a row has windows read each of them once.
    """
    first = (_random(seed, 0, 1).random_sample(len(windows)) * windows).astype(np.int64)
    drawn: IntArray = (first + epoch) % windows
    return drawn


def plan_evaluation(lengths: NDArray[np.integer[Any]], *, micro_batch: MicroBatch, padding: Padding) -> MicroBatches:
    """Plan one pass over all rows, the longest first, so that a lack of memory shows at once.

    Results come in the order of `plan.rows`: `result[plan.rows] = computed` puts them back into the table's. Arguments
    and errors as in `plan_epoch`.
    """
    lengths = _checked(lengths, padding)
    rows = _longest_first(np.arange(len(lengths))[np.newaxis], lengths)[0]
    return _cut(rows, _offsets(np.array([len(rows)])), lengths, micro_batch, padding)


def padded_tokens(lengths: NDArray[np.integer[Any]], padding: Padding) -> int:
    """Count the positions that one micro-batch computes, padding included; `lengths` are those of its rows, [n]."""
    if padding == "none":
        return -(-int(lengths.sum()) // PACKED_MULTIPLE) * PACKED_MULTIPLE
    return len(lengths) * (padding if isinstance(padding, int) else int(lengths.max()))


def _checked(lengths: NDArray[np.integer[Any]], padding: Padding) -> IntArray:
    """Return the lengths as int64, so that no sum or negation below can overflow."""
    checked = lengths.astype(np.int64, copy=False)
    if len(checked) == 0:
        return checked
    shortest, longest = int(checked.min()), int(checked.max())
    if shortest < 1:
        raise ValueError(f"a row of {shortest} tokens: every row needs at least one")
    if isinstance(padding, int) and longest > padding:
        raise ValueError(f"a row of {longest} tokens cannot be padded to {padding}")
    return checked


def _random(seed: int, epoch: int, stream: int = 0) -> np.random.RandomState:
    """Return random numbers of their own for each epoch and stream, the same in every version of numpy.

    numpy has frozen the streams of RandomState, MT19937 and SeedSequence; those of `default_rng` may change.
    """
    if not (0 <= seed < 2**32 and 0 <= epoch < 2**32):  # beyond, SeedSequence takes some pairs for the same
        raise ValueError(f"seed {seed}, epoch {epoch}: both must be 0 to {2**32 - 1}")
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, epoch, stream))))


def _draw(lengths: IntArray, batch_size: int, order: Order, random: np.random.RandomState) -> IntArray:
    """Return all rows in the order in which they make steps, [N]: each `batch_size` of them are one."""
    drawn = random.permutation(len(lengths)).astype(np.int64, copy=False)
    if order == "random":
        return drawn
    # The incomplete step's rows are put aside before sorting: were they always the shortest or longest of a pool, such
    # rows would weigh more than others, since there are fewer of them to share a step.
    complete, rest = np.split(drawn, [len(drawn) // batch_size * batch_size])
    pool_size = STEPS_A_POOL * batch_size
    pools, last_pool = np.split(complete, [len(complete) // pool_size * pool_size])
    pools = _longest_first(pools.reshape(-1, pool_size), lengths)
    last_pool = _longest_first(last_pool[np.newaxis], lengths)
    steps = np.concatenate([pools.ravel(), last_pool.ravel()]).reshape(-1, batch_size)
    return np.concatenate([steps[random.permutation(len(steps))].ravel(), rest])


def _longest_first(rows: IntArray, lengths: IntArray) -> IntArray:
    """Sort each line of rows [G, n] by length; rows of equal length keep their order."""
    order = np.argsort(-lengths[rows], axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def _cut(rows: IntArray, run_offsets: IntArray, lengths: IntArray, limit: MicroBatch, padding: Padding) -> MicroBatches:
    """Cut runs of rows, each sorted longest first, into micro-batches as large as the limit allows."""
    room = _room(lengths[rows], limit, padding)
    if padding == "equal" and len(rows):
        room = np.minimum(room, _equal_ahead(lengths[rows]))
    starts = np.fromiter(_starts(room, run_offsets), dtype=np.int64)
    return MicroBatches(rows=rows, offsets=np.append(starts, len(rows)))


def _room(lengths: IntArray, limit: MicroBatch, padding: Padding) -> IntArray:
    """Return how many rows fit into a micro-batch that begins with this one, its longest, [N], at least one."""
    if isinstance(limit, RowsPerMicroBatch):
        return np.full_like(lengths, limit.rows)
    if padding == "none":
        ends = np.cumsum(lengths)
        last: IntArray = np.searchsorted(ends, ends - lengths + limit.tokens, side="right").astype(np.int64, copy=False)
        fitting: IntArray = np.maximum(last - np.arange(len(lengths)), 1)
        return fitting
    padded = np.full_like(lengths, padding) if isinstance(padding, int) else lengths
    return np.maximum(limit.tokens // padded, 1)


def _equal_ahead(lengths: IntArray) -> IntArray:
    """Count the rows from each on, itself included, that follow each other with its length, [N]."""
    ends = np.append(np.flatnonzero(np.diff(lengths)) + 1, len(lengths))
    places = np.arange(len(lengths))
    counted: IntArray = ends[np.searchsorted(ends, places, side="right")] - places
    return counted


def _starts(room: IntArray, run_offsets: IntArray) -> Iterator[int]:
    """Yield where micro-batches begin: a run's first row is its longest, so it says how many rows join it, and so on.

    A plain loop, at 0.1 microseconds a micro-batch; memoryviews hand out Python's own integers.
    """
    room_at = room.data
    for first, end in pairwise(run_offsets.data):
        start = first
        while start < end:
            yield start
            start += room_at[start]


def _offsets(sizes: IntArray) -> IntArray:
    """Return where runs of these sizes begin and end when laid one after the other, [len(sizes) + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64, copy=False)
