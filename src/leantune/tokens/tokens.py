"""Texts to token ids, once: untruncated and without special tokens, in a memory-mapped cache.

1. `load_tokenizer`, `check_tokenizer`: the model's own tokenizer, and proof that it is the model's own
2. `tokenizer_fingerprint` and a digest of the texts: the name of the cache file, so that nothing stale is ever read
3. `tokenize`: chunk by chunk into that file unless it is there, then mapped: memory does not grow with the table

The file is plain Arrow IPC: a column of ``large_list<int32>`` for each text of a row (one, or two for pairs), a record
batch for each chunk of rows, and each batch's CRC-32 in its metadata. Truncation and special tokens come later
(`leantune.tokens.truncation`), so another maximum length never tokenizes again.
"""

import difflib
import hashlib
import json
import logging
import tempfile
import uuid
import zlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from huggingface_hub import is_offline_mode
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from leantune.system.errors import ModelError, SavingError
from leantune.system.files import remedy
from leantune.tokens.cache import limit_bytes, make_room, mark_used, token_folder

logger = logging.getLogger(__name__)

Texts = tuple[pa.Array | pa.ChunkedArray, ...]
"""One string column for each text of a row, all of the same length, without nulls."""

Int32Array = npt.NDArray[np.int32]

CACHE_FORMAT = 1
"""Part of every file's name: raise it when what the file holds changes."""

ROWS_PER_CHUNK = 1024
"""Enough rows to keep many cores busy; while a chunk is encoded, each of its tokens costs about 130 bytes."""

SEGMENTERS = ("fugashi", "ipadic", "rhoknp", "sentencepiece", "SudachiPy", "unidic", "unidic-lite")
"""Packages with which tokenizers in Python cut words: another version or dictionary of them may cut differently."""


@dataclass(frozen=True, kw_only=True)
class TokenizingProgress:
    """How far `tokenize` has come."""

    rows_done: int
    rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedTexts:
    """Token ids of every text of every row, mapped from the cache file without a copy.

    N rows, C chunks of `rows_per_chunk` rows (the last may have fewer); the outer tuples have one entry a text.
    """

    counts: tuple[Int32Array, ...]
    """[N] tokens of each row's text, without special tokens."""
    offsets: tuple[tuple[npt.NDArray[np.int64], ...], ...]
    """[C][rows + 1] where each row's tokens begin and end in its chunk's `values`."""
    values: tuple[tuple[Int32Array, ...], ...]
    """[C][tokens] token ids, row after row; read-only."""
    rows_per_chunk: int

    def occurrences(self, token: int) -> npt.NDArray[np.int64]:
        """How many tokens of each row are `token` [N], all texts of the row together; reads the file once."""
        found = np.zeros(len(self.counts[0]), np.int64)
        for chunks, offsets in zip(self.values, self.offsets, strict=True):
            start = 0
            for values, bounds in zip(chunks, offsets, strict=True):
                before = np.concatenate(([0], np.cumsum(values == token)))  # of the chunk's tokens up to each place
                found[start : start + len(bounds) - 1] += np.diff(before[bounds])
                start += len(bounds) - 1
        return found

    def ids(self, row: int, text: int = 0) -> Int32Array:
        """Token ids of one text of one row: [tokens], a read-only view into the file."""
        chunk, index = divmod(row, self.rows_per_chunk)
        offsets = self.offsets[text][chunk]
        return self.values[text][chunk][offsets[index] : offsets[index + 1]]


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model: a local folder, which never calls out, or a name on the Hugging Face Hub.

    Code that comes with a model is never run. Raises ModelError with what to do where the tokenizer cannot be loaded.
    Follow it with `check_tokenizer` as soon as the model's vocabulary is known.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False, local_files_only=Path(name).is_dir()
        )
    except Exception as error:  # a damaged file surfaces as anything, a bare Exception of the Rust library among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.name {name!r}: its tokenizer cannot be loaded. {_remedy(name, error)} (transformers says: {reason})"
        ) from error
    tokenizer.init_kwargs.pop("auto_map", None)  # where its code would be: not even a copy of it shall ask for that
    return tokenizer


def _remedy(name: str, error: Exception) -> str:
    """What the user can do about a tokenizer that cannot be loaded."""
    if "trust_remote_code" in str(error):
        return "It needs code that comes with the model, which leantune never runs: choose another model."
    if isinstance(error, ImportError):
        return "It needs a package that is not installed; for Japanese models: pip install 'leantune[japanese]'."
    if Path(name).is_dir():
        return "The folder should hold the tokenizer's files, such as tokenizer.json: save_pretrained writes them."
    if difflib.get_close_matches(name, ["demo"]):
        return "It is no folder; did you mean demo?"
    if is_offline_mode():
        return "It is no folder, was not downloaded before, and cannot be now: HF_HUB_OFFLINE=1 is set."
    return "It is no folder, and could not be downloaded: check the name, model.revision and the connection."


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> None:
    """Refuse a tokenizer that cannot be that of a model whose token embedding has `vocabulary_size` rows.

    A folder without tokenizer files loads without a word as a tokenizer of its five special tokens; embeddings that
    are a little larger than the vocabulary (padded to a round number) are usual. Raises ModelError.
    """
    name, size = tokenizer.name_or_path, len(tokenizer)
    if size < vocabulary_size / 2:
        raise ModelError(
            f"model.name {name!r}: its tokenizer has {size} tokens, but the model's vocabulary has {vocabulary_size}. "
            "The tokenizer's files (such as tokenizer.json) are probably missing: save the model's tokenizer beside it."
        )
    if tokenizer.padding_side == "left":
        raise ModelError(
            f"model.name {name!r}: its tokenizer pads on the left, as models do that classify by the last token. It is "
            "no encoder of BERT's kind: choose another model."
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocabulary_size:
        raise ModelError(
            f"model.name {name!r}: its tokenizer gives token ids up to {highest}, but the model's embedding has only "
            f"{vocabulary_size} rows, 0 to {vocabulary_size - 1}. Use the tokenizer with which the model was trained."
        )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hexadecimal) over all that decides which ids a text gets; where the tokenizer lies does not count.

    A fast tokenizer is its serialized pipeline, a tokenizer in Python the files that it saves and its `SEGMENTERS`.
    """
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__} {tokenizer.model_input_names}"
    if not tokenizer.is_fast:
        return _digest([kind.encode(), *_saved_files(tokenizer), *map(str.encode, _segmenter_versions())])
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline["truncation"] = pipeline["padding"] = None  # left over from the latest call
    return _digest([f"{kind} {tokenizer.split_special_tokens}".encode(), json.dumps(pipeline).encode()])


def _saved_files(tokenizer: PreTrainedTokenizerBase) -> Iterable[bytes]:
    """Name and content of each file of the saved tokenizer, without the settings that say where it was loaded from."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            content = file.read_bytes()
            if file.name == "tokenizer_config.json":
                settings = json.loads(content)
                content = json.dumps(
                    {key: value for key, value in settings.items() if key not in {"is_local", "local_files_only"}}
                ).encode()
            yield from (file.name.encode(), content)


def _segmenter_versions() -> Iterable[str]:
    for package in SEGMENTERS:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue


def tokenize(
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: Path | None = None,
    rows_per_chunk: int = ROWS_PER_CHUNK,
) -> Generator[TokenizingProgress, None, TokenizedTexts]:
    """Tokenize every text, or find it in the cache; yields progress after each chunk, and returns the tokens.

    Files lie in `token_folder(cache_dir)`; beyond `limit_bytes()`, the least recently used ones are removed. A file
    appears whole or not at all, so processes may do the same at once; a damaged one is made again. Where the folder
    cannot be written, the tokens go to a temporary file. A fast tokenizer uses all cores, unless the user set
    TOKENIZERS_PARALLELISM or RAYON_NUM_THREADS. Found in the cache, nothing is yielded. Raises ValueError for nulls,
    and SettingsError where LEANTUNE_CACHE_BYTES is no whole number.
    """
    _refuse_nulls(texts)
    limit = limit_bytes()
    name = f"{_cache_key(texts, tokenizer)}.arrow"
    path = token_folder(cache_dir) / name
    mark_used(path)  # before it is read, so that no other process takes it for an old one
    try:
        if not _is_sound(path, texts):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield from _write(path, texts, tokenizer, rows_per_chunk)
        tokens = _map(path)
        make_room(path.parent, limit, in_use=path)
        return tokens
    except OSError as error:
        logger.warning("tokens are not kept for the next run: %s cannot be written (%s)", path.parent, error)
    # What is mapped outlives the folder; where that is not so (Windows), the folder stays behind in the temporary one.
    with tempfile.TemporaryDirectory(prefix="leantune-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / name
        try:
            yield from _write(path, texts, tokenizer, rows_per_chunk)
        except OSError as error:
            raise SavingError(
                f"{path}: tokens cannot be written: {error.strerror}; {remedy(error)}, then try again"
            ) from None
        return _map(path)


def tokenize_in_memory(texts: Texts, tokenizer: PreTrainedTokenizerBase) -> TokenizedTexts:
    """Tokenize every text as `tokenize` does, but write no file: for texts that are read once. Raises ValueError for
    nulls."""
    _refuse_nulls(texts)
    starts = range(0, len(texts[0]), ROWS_PER_CHUNK)
    batches = [_encode_rows(texts, tokenizer, start, ROWS_PER_CHUNK) for start in starts]
    return _tokenized(batches, texts=len(texts), rows_per_chunk=ROWS_PER_CHUNK)


def _refuse_nulls(texts: Texts) -> None:
    if any(text.null_count for text in texts):
        raise ValueError("texts hold nulls, which have no tokens")


def _cache_key(texts: Texts, tokenizer: PreTrainedTokenizerBase) -> str:
    versions = f"{CACHE_FORMAT} {metadata.version('tokenizers')} {metadata.version('transformers')}"
    parts = (versions, tokenizer_fingerprint(tokenizer), *map(_texts_digest, texts))
    return _digest(map(str.encode, parts))


def _texts_digest(column: pa.Array | pa.ChunkedArray) -> str:
    """SHA-256 over a column's texts: their lengths beside their bytes, so that no other rows give the same."""
    lengths, content = hashlib.sha256(), hashlib.sha256()
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if len(chunk):  # an empty one may have no buffers
            array = chunk.cast(pa.large_string())
            _, starts, data = array.buffers()
            offsets = np.frombuffer(starts, np.int64)[array.offset : array.offset + len(array) + 1]
            lengths.update(np.diff(offsets).data)
            content.update(memoryview(data or b"")[offsets[0] : offsets[-1]])
    return _digest([lengths.digest(), content.digest()])


def _digest(parts: Iterable[bytes]) -> str:
    """SHA-256 (hexadecimal) over parts whose borders count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _write(
    path: Path, texts: Texts, tokenizer: PreTrainedTokenizerBase, rows_per_chunk: int
) -> Generator[TokenizingProgress, None, None]:
    """Tokenize into a file beside `path`, renamed at the end; removed if anything, a stop included, comes between."""
    rows = len(texts[0])
    schema = _schema(texts)
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for start in range(0, rows, rows_per_chunk):
                batch = _encode_rows(texts, tokenizer, start, rows_per_chunk)
                writer.write_batch(batch, custom_metadata={"crc32": _checksum(batch)})
                yield TokenizingProgress(rows_done=min(start + rows_per_chunk, rows), rows=rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _schema(texts: Texts) -> pa.Schema:
    return pa.schema([(f"text_{number}", pa.large_list(pa.int32())) for number in range(len(texts))])


def _encode_rows(texts: Texts, tokenizer: PreTrainedTokenizerBase, start: int, count: int) -> pa.RecordBatch:
    """Return the tokens of `count` rows from `start` on, or of as many as there are."""
    columns = [_encode(text.slice(start, count).to_pylist(), tokenizer) for text in texts]
    return pa.record_batch(columns, schema=_schema(texts))


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> pa.LargeListArray:
    ids = tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no warning about texts beyond the model's limit: truncation comes later
    )["input_ids"]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    values = np.fromiter(chain.from_iterable(ids), np.int32, count=offsets[-1])  # pa.array(ids) takes 15 times as long
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def _checksum(batch: pa.RecordBatch) -> str:
    checksum = 0
    for column in batch.columns:
        checksum = zlib.crc32(column.values.to_numpy(), zlib.crc32(column.offsets.to_numpy(), checksum))
    return str(checksum)


def _is_sound(path: Path, texts: Texts) -> bool:
    """Whether the file is there, whole, and as it was written.

    Reads it once, about a billion tokens in 3 seconds; it is not mapped for that, or else all of it would count as this
    process's memory.
    """
    rows = 0
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            if not reader.schema.equals(_schema(texts)):
                raise pa.ArrowInvalid("its columns are others")
            for number in range(reader.num_record_batches):
                batch, notes = reader.get_batch_with_custom_metadata(number)
                batch.validate()
                if notes["crc32"].decode() != _checksum(batch):
                    raise pa.ArrowInvalid(f"chunk {number} is not as it was written")
                rows += batch.num_rows
        if rows != len(texts[0]):
            raise pa.ArrowInvalid(f"it has {rows} rows instead of {len(texts[0])}")
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException, KeyError, TypeError, UnicodeDecodeError) as error:
        logger.warning("%s is damaged and is made again (%s)", path, error)
        return False
    return True


def _map(path: Path) -> TokenizedTexts:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    rows_per_chunk = batches[0].num_rows if batches else ROWS_PER_CHUNK
    return _tokenized(batches, texts=len(reader.schema), rows_per_chunk=rows_per_chunk)


def _tokenized(batches: list[pa.RecordBatch], *, texts: int, rows_per_chunk: int) -> TokenizedTexts:
    columns = [[batch.column(text) for batch in batches] for text in range(texts)]
    offsets = tuple(tuple(chunk.offsets.to_numpy() for chunk in column) for column in columns)
    return TokenizedTexts(
        counts=tuple(
            np.concatenate([np.empty(0, np.int32), *(np.diff(chunk).astype(np.int32) for chunk in column)])
            for column in offsets
        ),
        offsets=offsets,
        values=tuple(tuple(chunk.values.to_numpy() for chunk in column) for column in columns),
        rows_per_chunk=rows_per_chunk,
    )
