"""Whether a checkpoint can be used, and what it lacks if not; from its config alone, without weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoint, hub, llava_original
from ..errors import ModelError
from ..models.generic import Generic, missing_parts
from ..registry import family_for
from .load import embedded_folder


@dataclass(frozen=True)
class Explanation:
    """What is known of a checkpoint.

    Parameters
    ----------
    model: as it was named.
    architecture: the class of the model.
    family: that supports it; None if none does.
    missing: what it lacks to be used as a model of no known family; for a supported one, the release of transformers
        that it needs, if the installed one is older.
    generic: whether `attach(..., family="generic")` can be tried.
    """

    model: str
    architecture: str
    family: str | None
    missing: tuple[str, ...]
    generic: bool

    @property
    def text(self) -> str:
        """The same in words."""
        if self.family is not None:
            but = "".join(f"; {part}" for part in self.missing)
            return f"{self.architecture}: supported by the family {self.family}{but}"
        lines = [f"{self.architecture}: no family supports it"]
        lines += [f"  lacks {part}" for part in self.missing]
        if self.generic:
            lines.append(
                f'  follows the common pattern: tangovlm.attach(model, method, family="{Generic.name}") checks the '
                "loaded model on a small video, and prunes by methods that need no saliency"
            )
        return "\n".join(lines)


def explain(model: str | Path) -> Explanation:
    """What supports a checkpoint, or what it lacks.

    Parameters
    ----------
    model: directory or hub id.

    Raises
    ------
    ModelError: no such checkpoint, or a config that names no class.
    """
    source, local = checkpoint.located(embedded_folder(str(model)) or model)
    reachable = local or hub.reachable()
    name = checkpoint.architecture(source, local=local, reachable=reachable)
    stock = name
    if name in llava_original.ARCHITECTURES:
        config = checkpoint.read_json(source, "config.json", local=local or not reachable)
        stock = llava_original.convert(config or {}, source).architecture
    try:
        family = family_for(stock)
    except ModelError:
        missing = tuple(_missing(name, source, local or not reachable))
        return Explanation(str(model), name, None, missing, not missing)
    try:
        family.check_release()
    except ModelError as error:
        return Explanation(str(model), name, family.name, (str(error),), False)
    return Explanation(str(model), name, family.name, (), False)


def _missing(name: str, source: str, local: bool) -> list[str]:
    import transformers

    model_class: Any = getattr(transformers, name, None)
    if model_class is None:
        return [f"a class {name} in transformers {transformers.__version__}; the code of a checkpoint is not executed"]
    try:
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except Exception as error:
        # Stock code raises whatever an invalid value leads to.
        return [f"a config that transformers {transformers.__version__} reads ({checkpoint.first_line(error)})"]
    return missing_parts(model_class, config)
