"""How a notebook shows a plan."""

from dataclasses import replace

from examples import example_plan, uncertain
from gelora.plan import RankPlan
from html_pages import Page

HOSTILE = "</td><script>alert(1)</script>"


def test_a_notebook_shows_a_plan_as_a_table_of_escaped_text() -> None:
    plan = example_plan([2, 3], HOSTILE, key_rank=1)
    shown = uncertain(plan, 0.4)._repr_html_()
    page = Page(shown)
    assert not page.unbalanced
    assert not page.all("script")
    assert [head for _, head in page.all("th", scope="col")] == [
        "block", "query", "key", "value", "output", "parameters", "stable",
    ]  # fmt: skip
    cells = [cell for _, cell in page.all("td")]
    assert cells == ["2", "1", "2", "2", f"{7 * 16:,}", "0.99", "3", "1", "3", "3", f"{10 * 16:,}", "0.40"]
    assert "probability 0.40" in page.all("caption")[0][1]
    assert "color: inherit" in shown


def test_a_block_without_a_matrix_of_a_role_has_a_dash() -> None:
    plan = example_plan([2, 3])
    fewer = replace(plan, modules=plan.modules[1:])
    assert RankPlan._repr_html_(fewer).count(">–<") == 1
