"""All settings of a run: read from YAML and the command line, checked, and written back with nothing left open."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from leantune.batches.plan import BatchingSettings
from leantune.encoder.model import ModelSettings
from leantune.system.errors import SettingsError
from leantune.system.safe_yaml import parse_yaml
from leantune.system.settings import Section, check
from leantune.tables.folds import FoldSettings
from leantune.tables.memory import MEMORY, MemoryTable
from leantune.tables.table import DataSettings
from leantune.tokens.truncation import TokenSettings
from leantune.training.checkpoint import CheckpointSettings
from leantune.training.evaluation import EvaluationSettings
from leantune.training.optim import OptimizerSettings
from leantune.training.precision import PrecisionName
from leantune.training.task import LossSettings


class Config(Section):
    """The settings of one run, a section a stage in the order of the stages."""

    data: DataSettings
    folds: FoldSettings = FoldSettings()
    tokens: TokenSettings = TokenSettings()
    batching: BatchingSettings = BatchingSettings()
    model: ModelSettings
    loss: LossSettings = LossSettings()
    precision: Literal["auto"] | PrecisionName = "auto"
    """Number format of the matrix products; auto is bf16 where the hardware computes in it, fp16 on older GPUs, else
    fp32."""
    optimizer: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    fold: int | Literal["all", "none"] = Field(default=0, union_mode="left_to_right")
    """The fold that validates; the others train. `all` trains one model for each fold, and `none` one model on all
    rows, without validation."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the random numbers of the training: a new head, the dropout and the order of the rows."""
    deterministic: bool = False
    """On a GPU: use only operations that give the same bits each time. This is slower, and the run fails where there is
    no such operation. On a CPU it changes nothing."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if not self.data.text:
            raise ValueError("data.text: name the column that holds the texts (--text COLUMN)")
        if not self.data.target:
            raise ValueError("data.target: name the column to learn (--target COLUMN)")
        if self.data.fold is not None and self.folds.model_fields_set:
            raise ValueError(f"folds: not used where data.fold ({self.data.fold!r}) gives every row's fold: remove one")
        if self.data.validation is not None:
            name = self.data.validation.name
            if self.folds.model_fields_set:
                raise ValueError(
                    f"folds: not used where data.validation ({name}) holds the rows that validate: remove one"
                )
            if self.fold != 0:
                raise ValueError(
                    f"fold: found {self.fold}, and with data.validation there is one split only: the rows of {name} "
                    "validate and all others train; set it to 0, or remove data.validation"
                )
        if self.fold == "none":
            made_with = {
                "folds": self.folds.model_fields_set,
                "data.fold": self.data.fold,
                "data.group": self.data.group,
            }
            for name, given in made_with.items():
                if given:
                    raise ValueError(f"{name}: not used where fold is none and all rows train: remove one")
            if self.evaluation.model_fields_set:
                raise ValueError("evaluation: not used where fold is none and no rows validate: remove one")
        return self

    def unused(self) -> set[str]:
        """Folds that the data give leave nothing to make, and without validation nothing is evaluated."""
        given = self.data.fold is not None or self.data.validation is not None or self.fold == "none"
        unused = super().unused() | ({"folds"} if given else set())
        return unused | ({"evaluation"} if self.fold == "none" else set())


def load_config(path: Path | None, flags: Mapping[str, Any], assignments: Iterable[str] = ()) -> Config:
    """Return the settings of a YAML file, overridden by `flags`, then by `assignments`.

    Flags are dotted names with their values, assignments texts such as `optimizer.epochs=1` whose value is YAML. Raises
    `SettingsError` for a file that is no YAML mapping, an unknown or unused key, or a value that a setting cannot have.
    """
    settings = {} if path is None else read_yaml(path)
    for name, value in flags.items():
        _assign(settings, name, value)
    for assignment in assignments:
        assign(settings, assignment)
    return parse_config(settings)


def parse_config(settings: Mapping[str, Any]) -> Config:
    """Check the settings of a run; raises `SettingsError` that names each wrong one."""
    return check(Config, settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises `SettingsError`, naming the file."""
    try:
        settings = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise SettingsError(
            f"{path}: found {type(settings).__name__}, expected settings such as `model: {{name: demo}}`"
        )
    return settings


def dump_config(section: Section) -> dict[str, Any]:
    """Return settings as plain values for YAML, without those that nothing reads: what is written can be read again."""
    plain: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name not in section.unused():
            plain[name] = dump_config(value) if isinstance(value, Section) else _plain(value)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, MemoryTable):
        return MEMORY
    return str(value) if isinstance(value, Path) else value


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Change nested settings in place as a text such as `optimizer.epochs=1` says, whose value is YAML.

    Raises `SettingsError` where it is no such text.
    """
    name, equals, text = assignment.partition("=")
    if not equals or not name:
        raise SettingsError(f"--set: found {assignment!r}, expected key.sub=value, such as optimizer.epochs=1")
    try:
        _assign(settings, name.strip(), parse_yaml(text))
    except ValueError:
        raise SettingsError(f"--set {name}: {text!r} is not a YAML value") from None


def _assign(settings: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        inner = settings.get(parent)
        # Copied, for a YAML alias or the caller may share it. `micro_batch: auto` becomes `micro_batch: {rows: 8}`.
        settings[parent] = dict(inner) if isinstance(inner, dict) else {}
        settings = settings[parent]
    settings[last] = value
