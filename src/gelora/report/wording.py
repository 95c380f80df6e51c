"""Names and numbers as they stand in sentences."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gelora.masking import masked
from gelora.profile import attribute


def layer_names(profile: xr.Dataset) -> list[str]:
    """Return "layer 3" for each layer, with its stack where the profile has two."""
    stacks = [str(stack) for stack in profile["stack"].values]
    several = len(set(stacks)) > 1
    return [
        f"layer {int(layer)}" + (f" of the {stack}" if several else "")
        for stack, layer in zip(stacks, profile["layer"].values, strict=True)
    ]


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names as in a sentence.

    Examples
    --------
    >>> listed(["twonn", "mle", "ph"]), listed(["a", "b", "c"], most=2)
    ('twonn, mle and ph', 'a, b and 1 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def listed_layers(names: Sequence[str]) -> str:
    """Return layers, named as by `layer_names`, as in a sentence, each once: by stack, runs as ranges.

    Examples
    --------
    >>> listed_layers(["layer 0", "layer 1", "layer 2", "layer 5"])
    'layers 0 to 2 and 5'
    >>> listed_layers(["layer 0", "layer 0"])
    'layer 0'
    >>> listed_layers(["layer 3 of the encoder", "layer 0 of the decoder", "layer 1 of the decoder"])
    'layer 3 of the encoder, layers 0 and 1 of the decoder'
    """
    stacks: dict[str, list[int]] = {}
    for name in names:
        found = _LAYER.fullmatch(name)
        if found is None:
            return listed(list(dict.fromkeys(names)))
        stacks.setdefault(found[2], []).append(int(found[1]))
    parts = []
    for stack, found_numbers in stacks.items():
        numbers = sorted(set(found_numbers))
        word = "layer" if len(numbers) == 1 else "layers"
        parts.append(f"{word} {listed(_runs(numbers), most=len(numbers))}{stack}")
    return ", ".join(parts)


def _runs(numbers: Sequence[int]) -> list[str]:
    """Return "0 to 4" for three and more that follow one another, others by themselves."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return parts


def percent(share: float) -> str:
    """Return a share in percent, with two digits that count.

    Examples
    --------
    >>> percent(0.0005), percent(0.25), percent(1.0)
    ('0.05 %', '25 %', '100 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def rounded(value: float) -> str:
    """Return a large number with two digits that count.

    Examples
    --------
    >>> rounded(31910.8), rounded(84.0)
    ('32,000', '84')
    """
    return f"{float(f'{value:.2g}'):,.0f}"


def sentence(text: str) -> str:
    """Return ``text`` with a capital and a full stop."""
    text = text.strip()
    return text if not text else text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


_LAYER = re.compile(r"layer (\d+)((?: of the \w+)?)")
_POOLINGS = {
    "mean": "The vectors of an example's tokens are averaged into one point",
    "last": "The vector of an example's last token is its point",
    "cls": "The vector of an example's first token is its point",
    "max": "The largest value of each coordinate over an example's tokens makes one point",
    "tokens": "Each token of an example is a point",
}


def count_of(profile: xr.Dataset, name: str) -> int:
    """Return an attribute that counts something, 0 where it is missing or no number."""
    value = profile.attrs.get(name, 0)
    return int(value) if isinstance(value, int | float | np.number) and np.isfinite(value) else 0


def what_was_measured(profile: xr.Dataset) -> list[str]:
    """Return in a few sentences, for someone who was not there, what a profile was made from."""
    blocks = attribute(profile, "architecture")
    of_model = bool(short_path(profile.attrs.get("model", "")) or blocks)
    width = int(blocks.get("width") or 0)
    said = [_source(profile, blocks, width) if of_model else _given(profile.sizes["layer"])]
    pooling = str(profile.attrs.get("pooling", ""))
    if pooling in _POOLINGS:
        said.append(f"{_POOLINGS[pooling]} in every {'layer' if of_model else 'cloud'} ({pooling} pooling).")
    points = profile["n_points"].values
    points = points[points > 0]
    if points.size and of_model:
        wide = f" in {width:,} coordinates" if width else ""
        said.append(
            f"So each layer is a cloud of {span(points, 'to')} distinct points{wide}: layer 0 is what enters the first "
            "block, layer i what block i gives out."
        )
    elif points.size:
        said.append(f"{'Each' if profile.sizes['layer'] > 1 else 'It'} has {span(points, 'to')} distinct points.")
    n_estimators = profile.sizes["estimator"]
    gave = "One estimator" if n_estimators == 1 else f"{n_estimators} estimators"
    halves = count_of(profile, "n_replicates")
    drawn = "examples" if of_model else "points"
    noise = f", and of {halves} random halves of the {drawn}, whose spread tells the noise" if halves else ""
    said.append(f"{gave} gave the dimension of each cloud{noise}.")
    return said


def _source(profile: xr.Dataset, blocks: Mapping[str, Any], width: int) -> str:
    about = profile.attrs
    counts = {str(stack): int(n) for stack, n in (blocks.get("blocks") or {}).items()}
    model = short_path(about.get("model", "")) or "the model"
    built = " and ".join(f"{n} {stack} blocks" for stack, n in counts.items())
    built = f" ({built}{f' of width {width:,}' if width else ''})" if built else ""
    drawn = count_of(profile, "n_texts")
    if not drawn:
        return f"Point clouds of {profile.sizes['layer']} layers were read from {model}{built}."
    available = count_of(profile, "n_available") or drawn
    source = short_path(about.get("data", "")) or "the data"
    of_all = "All" if drawn == available else f"{drawn:,} of the"
    return f"{of_all} {available:,} examples in {source} were run through {model}{built}."


def _given(n_clouds: int) -> str:
    return "One point cloud was given." if n_clouds == 1 else f"{n_clouds} point clouds were given."


def span(values: Any, word: str) -> str:
    """Return the least and the largest of several counts, one number where they are the same.

    Examples
    --------
    >>> span([1200, 900], "to"), span([7, 7], "to")
    ('900 to 1,200', '7')
    """
    low, high = int(min(values)), int(max(values))
    return f"{low:,}" if low == high else f"{low:,} {word} {high:,}"


def short_path(path: object) -> str:
    """Return the last two parts of a path: an organisation and a model, or a folder and a file.

    Examples
    --------
    >>> short_path("/home/me/models/org/model"), short_path("bert-base-uncased")
    ('org/model', 'bert-base-uncased')
    """
    return "/".join(masked(str(path)).replace("\\", "/").strip("/").split("/")[-2:])
