"""Read a YAML file into its schema; what is wrong becomes one line with the file and the key."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from configs.answer_schema import AnswerConfig
from configs.schema import InternalizeConfig, ModelConfig
from video2lora_core.errors import UsageError

MODELS_DIR = Path(__file__).parent / "models"

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(path: Path, schema: type[ConfigT]) -> ConfigT:
    """Read one YAML file as `schema`.

    Raises:
        UsageError: the file is missing, is no YAML mapping, or does not fit the schema.
    """
    return validate(_read_mapping(path), schema, where=str(path))


def load_model_config(name_or_path: str, *, random_weights: bool = False) -> ModelConfig:
    """Find a model config by name or path and make its paths absolute.

    With `random_weights` the config asks for random ones, of seed 0 where it names no seed.

    Raises:
        UsageError: there is no such config, or it is wrong.
    """
    path = _find_model_config(name_or_path)
    config = load_config(path, ModelConfig)
    found = {"path": config.vlm.path, "architecture": config.vlm.architecture}
    paths = {key: str((path.parent / name).resolve()) for key, name in found.items() if name}
    updates: dict[str, Any] = {
        "vlm": config.vlm.model_copy(update=paths),
        "checkpoint": (path.parent / config.checkpoint.expanduser()).resolve(),
    }
    if random_weights and config.random_seed is None:
        updates["random_seed"] = 0
    return config.model_copy(update=updates)


def load_internalize_config(path: Path | None, overrides: dict[str, Any]) -> InternalizeConfig:
    """Merge a run config (or nothing) with the values given on the command line, which win.

    Raises:
        UsageError: a value is missing, unknown or out of range.
    """
    return validate(_overlaid(path, overrides), InternalizeConfig, where=str(path or "internalize"))


def load_answer_config(path: Path | None, overrides: dict[str, Any]) -> AnswerConfig:
    """Merge an answer config (or nothing) with the values given on the command line, which win.

    Raises:
        UsageError: a value is missing, unknown or out of range.
    """
    return validate(_overlaid(path, overrides), AnswerConfig, where=str(path or "answer"))


def validate(values: dict[str, Any], schema: type[ConfigT], *, where: str) -> ConfigT:
    """Check a mapping against a schema.

    Raises:
        UsageError: one line that names the first wrong key.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_problem(error, schema)}") from None


def _overlaid(path: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    values = _read_mapping(path) if path is not None else {}
    return values | {key: value for key, value in overrides.items() if value is not None}


def _find_model_config(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path.resolve()
        raise UsageError(
            f"{path}: no such model config; give an existing file or a name of {MODELS_DIR}"
        )
    named = MODELS_DIR / f"{name_or_path}.yaml"
    if named.is_file():
        return named
    known = ", ".join(sorted(file.stem for file in MODELS_DIR.glob("*.yaml")))
    raise UsageError(
        f"model {name_or_path!r}: unknown name (known: {known}); give one of them or a .yaml path"
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; give the path of a YAML config") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be read as YAML ({reason}); correct the file") from None
    if not isinstance(values, dict):
        raise UsageError(
            f"{path}: holds {type(values).__name__}, expected a mapping; write `key: value` lines"
        )
    return values


def _first_problem(error: ValidationError, schema: type[BaseModel]) -> str:
    # A misspelt key is both unknown and missing: what was written is the more useful news.
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(schema, first["loc"][:-1]))
        return f"unknown key `{where}`; remove it, or use one of: {known}"
    if first["type"] == "missing":
        return f"key `{where}` is missing; give it a value"
    message = first["msg"].removeprefix("Value error, ")
    return f"key `{where}` is wrong (found {first['input']!r}: {message}); correct it"


def _known_keys(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a nested location, found by walking the schema's fields."""
    for part in location:
        field = schema.model_fields.get(str(part))
        nested = field.annotation if field else None
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            schema = nested
    return sorted(schema.model_fields)
