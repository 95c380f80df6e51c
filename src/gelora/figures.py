"""Pictures from files: read what was written, draw, write the picture whole or not at all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.files import atomic_path
from gelora.messages import check_choice
from gelora.plots import (
    plot_comparison,
    plot_diagram,
    plot_profile,
    plot_ranks,
    plot_scales,
    plot_spanning_tree,
    plot_training,
)
from gelora.results import open_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_TYPES = (".png", ".pdf", ".svg")
# What a file may hold, and what can be drawn of it, that by default first.
KINDS: Mapping[str, tuple[str, ...]] = {
    "profile": ("profile", "scales"),
    "rank plan": ("ranks", "probabilities"),
    "training record": ("loss", "score", "learning_rate", "rank"),
    "comparison": ("comparison",),
    "persistence": ("diagram", "barcode"),
    "spanning tree": ("tree",),
}
_SEVERAL = ("rank plan", "training record")  # drawn together
_OPTIONS = {"estimator": "profile", "cost": "comparison", "task": "comparison"}


def save_figure(draw: "Callable[[Axes], object]", path: str | Path, *, size: tuple[float, float] = (7.0, 4.5)) -> Path:
    """Let ``draw`` fill the axes of a new figure of ``size`` inches and write it to ``path``.

    Raises
    ------
    ValueError
        If ``path`` does not end in one of `PICTURE_TYPES`.
    OSError
        If it cannot be written; nothing is left behind.
    """
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix.lower() not in PICTURE_TYPES:
        raise ValueError(f"`output` must end in one of {', '.join(PICTURE_TYPES)}, got {str(path)!r}")
    figure = Figure(figsize=size, layout="constrained")  # not pyplot, which keeps global state
    draw(figure.subplots())
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=150)
    return target


def draw_files(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    kind: str | None = None,
    estimator: str | Sequence[str] | None = None,
    cost: str | None = None,
    task: str | None = None,
) -> Path:
    """Draw what files hold, recognised by their own words, into ``output``.

    Parameters
    ----------
    sources : sequence of str or Path
        One profile, comparison, persistence or spanning tree (``.nc``); or one or more training records (``.nc``) or
        rank plans (``.json``), which are drawn together.
    output : str or Path
        The picture, of one of `PICTURE_TYPES`.
    kind : str, optional
        What to draw, of `KINDS`; the first that the files allow where left out.
    estimator : str or sequence of str, optional
        Of a profile.
    cost, task : str, optional
        Of a comparison, as in `gelora.plots.plot_comparison`.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file holds nothing that is drawn, the files differ in what they hold, or an option does not go with it.
    """
    paths = [Path(source) for source in sources]
    found = [open_result(path) for path in paths]
    holding = {what for what, _ in found}
    if len(holding) != 1 or (len(found) > 1 and not holding <= set(_SEVERAL)):
        raise ValueError(_wrong_sources(paths, [what for what, _ in found]))
    (what,) = holding
    options: dict[str, Any] = {"estimator": estimator, "cost": cost, "task": task}
    for name, value in options.items():
        if value is not None and _OPTIONS[name] != what:
            raise ValueError(f"`{name}` goes with a {_OPTIONS[name]}, but `source` is a {what}: leave it out")
    chosen = KINDS[what][0] if kind is None else kind
    check_choice("kind", chosen, KINDS[what], f" for a {what}")
    labelled = dict(zip(_labels(paths), (one for _, one in found), strict=True))
    return save_figure(lambda ax: _draw(what, chosen, labelled, ax, options), output)


def _draw(what: str, kind: str, labelled: Mapping[str, Any], ax: "Axes", options: Mapping[str, Any]) -> None:
    first = next(iter(labelled.values()))
    match what:
        case "profile" if kind == "scales":
            plot_scales(first, ax, estimator=_only(options["estimator"]))
        case "profile":
            plot_profile(first, ax, estimator=options["estimator"])
        case "rank plan":
            plot_ranks(labelled, ax, show=kind)
        case "training record":
            plot_training(labelled if len(labelled) > 1 else first, ax, show=kind)
        case "comparison":
            plot_comparison(first, ax, cost=options["cost"] or "parameters", task=options["task"])
        case "persistence":
            plot_diagram(first, ax, kind=kind)
        case _:
            plot_spanning_tree(first, ax)


def _only(estimator: str | Sequence[str] | None) -> str | None:
    if estimator is None or isinstance(estimator, str):
        return estimator
    if len(estimator) != 1:
        raise ValueError(f"`estimator` must be one where scales are drawn, got {list(estimator)}: draw them apart")
    return estimator[0]


def _wrong_sources(paths: Sequence[Path], holding: Sequence[str]) -> str:
    listed = ", ".join(f"{str(path)!r} ({what})" for path, what in zip(paths, holding, strict=True))
    return f"`source` must be one file, or several rank plans or several training records, got {listed or 'none'}"


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return the files' names without ending, or their folders' names, or their whole paths: the first that differ."""
    if len(set(paths)) < len(paths):
        raise ValueError(f"`source` has one file twice: {[str(path) for path in paths]}")
    for labels in ([path.stem for path in paths], [path.absolute().parent.name for path in paths]):
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]
