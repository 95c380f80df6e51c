"""Pictures from files: read a profile or plans, draw, write the picture whole or not at all."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gelora.files import atomic_path
from gelora.plan import RankPlan
from gelora.plots import plot_profile, plot_ranks
from gelora.profile import open_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_TYPES = (".png", ".pdf", ".svg")


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
    sources: Sequence[str | Path], output: str | Path, *, estimator: str | Sequence[str] | None = None
) -> Path:
    """Draw one profile (``.nc``), or one or more rank plans (``.json``) side by side, into ``output``.

    Raises
    ------
    ValueError
        If the sources are of other types or of both.
    """
    paths = [Path(source) for source in sources]
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".nc"} and len(paths) == 1:
        profile = open_profile(paths[0])
        return save_figure(lambda ax: plot_profile(profile, ax, estimator=estimator), output)
    if kinds == {".json"}:
        if estimator is not None:
            raise ValueError("`estimator` goes with a profile: a plan is drawn as it is")
        plans = {label: RankPlan.load(path) for label, path in zip(_labels(paths), paths, strict=True)}
        return save_figure(lambda ax: plot_ranks(plans, ax), output)
    raise ValueError(f"`source` must be one profile (.nc) or rank plans (.json), got {[str(path) for path in paths]}")


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return the files' names without ending, or their whole paths where two have one name."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    if len(set(paths)) < len(paths):
        raise ValueError(f"`source` has one plan twice: {[str(path) for path in paths]}")
    return [str(path) for path in paths]
