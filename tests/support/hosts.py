"""Twins for tests of code that does not depend on the text model, of which a family may have several."""

from tangovlm.selfcheck.twins import TWINS, available


def first_of_each_family() -> list[str]:
    """The first twin of every family that the installed transformers has."""
    first = {TWINS[name].family: name for name in reversed(available())}
    return sorted(first.values())


def of_each_layout() -> list[str]:
    """One twin for each way to lay out features, prompts and positions."""
    alike = ("glm4v", "llava_next_video", "minicpmv4_7", "qwen2_vl", "qwen2_5_omni", "qwen3_omni")
    return [name for name in first_of_each_family() if name not in alike]
