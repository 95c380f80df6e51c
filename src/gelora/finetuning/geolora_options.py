"""The options of GeoLoRA and their bounds, known without torch."""

from gelora.messages import check_integer, nearest

METHODS = ("adamw", "sgd")
PLAN_ROLES = ("start", "ceiling")
TRUNCATIONS = ("on_trial", "at_once")


def check_geolora_options(
    *,
    tolerance: float = 0.0,
    budget: int | None = None,
    plan_as: str = "start",
    max_rank: int = 1,
    min_rank: int = 1,
    interval: int = 1,
    truncation: str = "on_trial",
    settle: float = 0.0,
    method: str = "adamw",
) -> None:
    """Raise ValueError naming an option that is out of range."""
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise ValueError(f"`tolerance` must be a number of at least 0 and below 1, got {tolerance!r}")
    if isinstance(settle, bool) or not isinstance(settle, int | float) or not 0 <= settle < 1:
        raise ValueError(f"`settle` must be a share of the run, at least 0 and below 1, got {settle!r}")
    if budget is not None:
        check_integer("budget", budget, 1, ", or None to truncate by `tolerance`")
    for name, number in (("min_rank", min_rank), ("max_rank", max_rank), ("interval", interval)):
        check_integer(name, number, 1)
    for name, choice, known in (
        ("plan_as", plan_as, PLAN_ROLES),
        ("truncation", truncation, TRUNCATIONS),
        ("method", method, METHODS),
    ):
        if choice not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {choice!r}{nearest(str(choice), known)}")
