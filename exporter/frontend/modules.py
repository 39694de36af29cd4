"""The modules of a SentenceTransformer: from modules.json, or as sentence-transformers chooses them
for a folder without that file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend import model_kinds, routes, sparse_modules, towers, weights
from goldfold.exporter.frontend.module_spec import FOREIGN, ModuleSpec
from goldfold.exporter.frontend.weights import read_json, read_object, refusal
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES, SPARSE

SUPPORTED = (
    "Transformer",
    "StaticEmbedding",
    "WeightedLayerPooling",
    "WordWeights",
    "Pooling",
    "Dense",
    "LayerNorm",
    "Normalize",
    "Dropout",
)
"""The module kinds that can be exported. Dropout is the identity at inference."""

SCORING = ("Transformer", "LogitScore", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
"""The module kinds of a model that scores pairs."""

TOKENWISE = ("Transformer", "Dense", "MultiVectorMask", "Normalize")
"""The module kinds of a model that gives a vector for each token."""
_PYLATE = "pylate.models.Dense.Dense"
"""PyLate's own projection, which sentence-transformers reads as its own."""

_OF_TOKENS = ("WeightedLayerPooling", "WordWeights")
"""The module kinds that change the vectors of tokens, and stand before Pooling."""
_NAMED = ("Dense", "Normalize")
"""The module kinds that may do so: a setting names what they read."""

WEIGHTED = (
    "Transformer",
    "StaticEmbedding",
    "Dense",
    "LayerNorm",
    *_OF_TOKENS,
    *sparse_modules.WEIGHTED,
)
"""The module kinds that have weights."""

_WORDS = (
    "its tokenizer looks a word up as it stands, without punctuation and in small letters, and "
    "drops a word that is in no list, which no tokenizer.json does"
)
_UNSUPPORTED = {
    "WordEmbeddings": _WORDS,
    "BoW": _WORDS,
    "LSTM": "it reads how many words a text has, which only WordEmbeddings says",
    "CNN": "its convolutions read the padding beside a text, so that a text's vector depends on "
    "the other texts of a batch",
}
"""Why a module of sentence-transformers' own is not exported."""

LIST = "modules.json"
STATIC = "StaticEmbedding"


def read(path: Path, trust_remote_code: bool, task: str = EMBEDDING) -> tuple[ModuleSpec, ...]:
    """Returns the modules of the model in `path`, each checked, in the order in which they run.

    Of a model with routes these are the modules of all routes. Raises ModelError for a module that
    goldfold does not know, and for a model of another kind than its `task` says.
    """
    file = path / LIST
    if not file.is_file():
        return _made_of(path, task)
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise refusal(f"{file}: must be a list of modules; save the model again")
    modules = tuple(_read_entry(file, place, entry) for place, entry in enumerate(entries))
    if task in (SPARSE, EMBEDDING):
        modules = routes.expanded(path, modules)
    modules = tuple(towers.told(path, module) for module in modules)
    if task != MULTI:
        model_kinds.check_modules(file, [module.type for module in modules], task)
    if task == SPARSE:
        for module in modules:
            _check_type(file, module, trust_remote_code, sparse_modules.SUPPORTED)
        sparse_modules.check(file, modules)
        return modules
    known = {SCORES: SCORING, MULTI: TOKENWISE}.get(task, SUPPORTED)
    found: list[ModuleSpec] = []
    for module in modules:
        if task == EMBEDDING and trust_remote_code and _is_own(path, module):
            before = routes.of_route(tuple(found), module.route)
            first = not before if module.route else not found
            found.append(replace(module, stands_for="Transformer" if first else FOREIGN))
            continue
        if not (task == MULTI and module.type == _PYLATE):
            _check_type(file, module, trust_remote_code, known)
        found.append(module)
    made = tuple(found)
    for route in routes.names_of(made) or [""]:
        _check_order(file, path, routes.of_route(made, route), task)
    return made


def _check_order(file: Path, path: Path, modules: tuple[ModuleSpec, ...], task: str) -> None:
    """Refuse modules, those of one route, that do not follow each other."""
    kinds = [module.kind for module in modules]
    if STATIC in kinds:
        _check_static(file, kinds)
    elif kinds[0] != "Transformer" or kinds.count("Transformer") > 1:
        raise refusal(f"{file}: one Transformer must come first, but the modules are {kinds}")
    names = [module.name for module in modules if not module.route]
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise refusal(
            f"{file}: two modules are called {again!r}, of which sentence-transformers keeps the "
            "last; give each a name of its own"
        )
    if task != EMBEDDING or kinds[0] == STATIC or FOREIGN in kinds:
        return
    if modules[0].embeds:
        towers.check(file, kinds)
        return
    if "Pooling" not in kinds:
        raise refusal(
            f"{file}: has no Pooling, so the model gives a vector a token and no sentence "
            f"embedding; its modules are {kinds}"
        )
    place = kinds.index("Pooling")
    tokenwise = (*_OF_TOKENS, "Dropout")
    early = [m.kind for m in modules[1:place] if m.kind not in tokenwise and not _reads(path, m)]
    if early:
        raise refusal(
            f"{file}: {early[0]} comes before Pooling, and works on what that makes; the modules "
            f"are {kinds}"
        )
    if late := [kind for kind in kinds[place:] if kind in _OF_TOKENS]:
        raise refusal(
            f"{file}: {late[0]} comes behind Pooling, which reads what it makes; the modules are "
            f"{kinds}"
        )


def _reads(path: Path, module: ModuleSpec) -> bool:
    """Returns whether a module reads the vectors of tokens."""
    config = path / module.path / "config.json"
    if module.kind not in _NAMED or not config.is_file():
        return False
    return read_object(config).get("module_input_name") == "token_embeddings"


def _is_own(path: Path, module: ModuleSpec) -> bool:
    """Returns whether a module's class lies in the model's folder."""
    named = re.fullmatch(r"(?!sentence_transformers\.)([A-Za-z_]\w*)\.\w+", module.type)
    return named is not None and (path / f"{named[1]}.py").is_file()


def _check_static(file: Path, kinds: list[str]) -> None:
    """Refuse modules around a table of tokens that work on something else than its mean."""
    unread = ("Transformer", STATIC, "Pooling", *_OF_TOKENS)
    odd = [kind for kind in kinds[1:] if kind in unread]
    if kinds[0] != STATIC or odd:
        raise refusal(
            f"{file}: a StaticEmbedding comes first and makes the sentence embedding, which a "
            f"{odd[0]} does not read; the modules are {kinds}"
        )


def _made_of(path: Path, task: str) -> tuple[ModuleSpec, ...]:
    """Returns sentence-transformers' modules for a folder without modules.json: a Transformer and
    pooling, whose mode it chooses by the model (exporter/trace says which); of scores the first
    alone; of token vectors a projection, which lies among the transformer's weights."""
    base = "sentence_transformers.base.modules.transformer.Transformer"
    if task == SCORES:
        return (ModuleSpec(0, "0", "", base),)
    if towers.is_tower(path / "config.json"):
        return (ModuleSpec(0, "0", "", base, embeds=True),)
    if task == MULTI:
        if not model_kinds.is_stanford(path):
            raise refusal(
                f"{path}: has no {LIST}, so sentence-transformers would make up a projection; "
                "save the model again"
            )
        dense = "sentence_transformers.base.modules.dense.Dense"
        return ModuleSpec(0, "0", "", base), ModuleSpec(1, "1", "", dense, configured=False)
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    if task == SPARSE:
        pooling = sparse_modules.POOLING
    return ModuleSpec(0, "0", "", base), ModuleSpec(1, "1", "", pooling, configured=False)


def _read_entry(file: Path, place: int, entry: Any) -> ModuleSpec:
    if not isinstance(entry, dict):
        raise refusal(f"{file}: module {place} is {entry!r}, not an object; save the model again")
    for key in ("name", "path", "type"):
        if not isinstance(entry.get(key), str):
            raise refusal(f"{file}: module {place} lacks a {key!r}; save the model again")
    relative = entry["path"]
    if not weights.is_inside(relative):
        raise refusal(
            f"{file}: module {place} has the path {relative!r}, which leaves the model's folder; "
            "that is refused, because it would read files that are not the model's"
        )
    if any(len(part.encode("utf-8", "replace")) > 255 for part in relative.split("/")):
        raise refusal(
            f"{file}: the path of module {place} has {len(relative)} letters: no folder's"
        )
    return ModuleSpec(place, entry["name"], relative, entry["type"])


def _check_type(
    file: Path, module: ModuleSpec, trust_remote_code: bool, known: tuple[str, ...]
) -> None:
    """Refuse a module that is not sentence-transformers' own, or that cannot be exported."""
    ours = re.fullmatch(r"sentence_transformers(\.\w+)+", module.type) is not None
    if ours and module.kind in known:
        return
    supported = ", ".join(known)
    if ours:
        why = _UNSUPPORTED.get(module.kind, "")
        raise refusal(
            f"{file}: module {module.name!r} is a {module.kind} ({module.type}), which goldfold "
            f"does not support{why and f', because {why}'}; supported are {supported}"
        )
    if not trust_remote_code:
        raise refusal(
            f"{file}: module {module.name!r} is of type {module.type!r}, not one of "
            "sentence-transformers' own: loading it would run code from the model's folder, which "
            f"is refused; read it, then pass --trust-remote-code; supported are {supported}"
        )
    raise refusal(
        f"{file}: module {module.name!r} is of the unknown type {module.type!r}: trusted to run, "
        f"but no code of that name lies in the folder; supported are {supported}"
    )


def check_settings(path: Path, module: ModuleSpec, trust_remote_code: bool) -> None:
    """Refuse settings of one module after the Transformer that the graph could not carry."""
    if module.kind not in (*WEIGHTED, "Pooling", "SpladePooling") or not module.configured:
        return
    file = path / module.path / "config.json"
    if not file.is_file():
        raise refusal(f"{file}: missing, and a {module.kind} needs it; fetch the model again")
    config = read_object(file)
    if module.kind in sparse_modules.SUPPORTED:
        sparse_modules.check_settings(file, module, config)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    trusted = isinstance(activation, str) and (trust_remote_code or activation.startswith("torch."))
    if module.kind == "Dense" and not trusted:
        raise refusal(
            f"{file}: activation_function {activation!r} is not one of torch's, and "
            "sentence-transformers would silently put Tanh in its place; use one from torch.nn"
        )


def has_weights(path: Path, module: ModuleSpec) -> bool:
    """Returns whether a module has weights; one of the model's own code, where a file holds any."""
    if module.kind in WEIGHTED:
        return True
    held = ("model.safetensors", "pytorch_model.bin")
    own = module.kind == FOREIGN and path / module.path != path
    return own and any((path / module.path / name).is_file() for name in held)


def leaves_prompts_out(path: Path, modules: tuple[ModuleSpec, ...]) -> bool:
    """Returns whether a Pooling leaves the tokens of a prompt out."""
    return any(
        read_object(path / module.path / "config.json").get("include_prompt", True) is not True
        for module in modules
        if module.kind == "Pooling" and module.configured
    )


def runs_own_code(path: Path, modules: tuple[ModuleSpec, ...]) -> bool:
    """Returns whether a module, or the activation of a Dense, is of foreign code."""
    return any(module.stands_for for module in modules) or own_activation(path, modules)


def own_activation(path: Path, modules: tuple[ModuleSpec, ...]) -> bool:
    """Returns whether a Dense has an activation from foreign code."""
    named = [
        str(read_object(path / module.path / "config.json").get("activation_function", "torch."))
        for module in modules
        if module.kind == "Dense"
    ]
    return not all(name.startswith("torch.") for name in named)
