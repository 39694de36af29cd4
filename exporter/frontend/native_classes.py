"""Native classes: whether transformers itself has the class that a model's `auto_map` names."""

from __future__ import annotations

from collections.abc import Iterable


def differs(model_type: str, classes: Iterable[tuple[str, str]]) -> str | None:
    """Returns why transformers' own classes are not those that `auto_map` names, in words; None if
    they are.

    Args:
        model_type: the one in config.json.
        classes: role and class's bare name, as ("AutoModel", "NomicBertModel"). Roles that opening
            an embedding model does not ask for, such as AutoModelForMaskedLM, do not count.
    """
    from transformers.models.auto.configuration_auto import (
        CONFIG_MAPPING_NAMES,  # pyright: ignore[reportPrivateImportUsage]
    )
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    own: dict[str, tuple[str, ...]] = {
        "AutoConfig": _names(CONFIG_MAPPING_NAMES.get(model_type)),
        "AutoModel": _names(MODEL_MAPPING_NAMES.get(model_type)),
    }
    for role, name in classes:
        if role in own:
            if not own[role]:
                return f"transformers has no model of the type {model_type!r}"
            if name not in own[role]:
                return (
                    f"transformers' {model_type} is {own[role][0]}, and the model asks for {name}"
                )
        elif role in ("AutoTokenizer", "AutoProcessor") and not _has(name):
            return f"transformers has no {name}"
    return None


def _names(found: object) -> tuple[str, ...]:
    if isinstance(found, str):
        return (found,)
    return tuple(str(name) for name in found) if isinstance(found, (tuple, list)) else ()


def _has(name: str) -> bool:
    import transformers

    return bool(name) and (hasattr(transformers, name) or hasattr(transformers, f"{name}Fast"))
