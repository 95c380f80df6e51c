"""The options of GeoLoRA and their bounds, known without torch."""

from gelora.messages import check_choice, check_integer, check_number

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
    check_number("tolerance", tolerance, "a number of at least 0 and below 1", below=1)
    check_number("settle", settle, "a share of the run, at least 0 and below 1", below=1)
    if budget is not None:
        check_integer("budget", budget, 1, ", or None to truncate by `tolerance`")
    for name, number in (("min_rank", min_rank), ("max_rank", max_rank), ("interval", interval)):
        check_integer(name, number, 1)
    check_choice("plan_as", plan_as, PLAN_ROLES)
    check_choice("truncation", truncation, TRUNCATIONS)
    check_choice("method", method, METHODS)
