"""Training records on the page of a report: what is shown of them, and which are refused."""

import json
from pathlib import Path

import pytest
import xarray as xr

from gelora.naming import named_records
from gelora.report import report_files, write_report
from gelora.report.record_section import records_table
from html_pages import Page


def example_record() -> xr.Dataset:
    return xr.Dataset(
        {
            "loss": ("step", [0.7, 0.65, 0.5]),
            "score": 0.81,
            "seconds": 61.25,
            "trainable_parameters": ("part", [12_345, 770]),
        },
        coords={"part": ["adapter", "head"], "step": [1, 2, 3]},
        attrs={
            "schema": "gelora-training-record",
            "schema_version": 1,
            "score_metrics": json.dumps(["accuracy"]),
            "adapter": "lora",
        },
    )


def test_a_training_record_is_a_row_and_a_line(tmp_path: Path) -> None:
    record = example_record()
    record.to_netcdf(tmp_path / "record.nc", engine="h5netcdf")
    page = Page(report_files([tmp_path / "record.nc"], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert {"0.8100 (accuracy)", "12,345", "770"} <= {cell for _, cell in page.all("td")}
    ((_, written),) = page.all("script", id="charts")
    assert json.loads(written)["records"]["figures"][""]["data"][0]["y"] == [0.7, 0.65, 0.5]


def test_of_a_training_loss_first_median_and_last_stand_in_the_table_and_the_page_says_so(tmp_path: Path) -> None:
    record = example_record()
    record["loss"][:] = [0.9, float("nan"), 0.5]
    table = records_table({"lora": record, "none": record.isel(step=slice(0, 0))})
    found = [dict(zip(table.head, (cell.text for cell in cells), strict=True)) for cells in table.rows]
    losses = [[one[name] for name in ("steps", "first loss", "median loss", "last loss")] for one in found]
    assert losses == [["3", "0.9000", "0.7000", "0.5000"], ["0", "–", "–", "–"]]
    page = Page(write_report(None, tmp_path / "r.html", record=record).read_text(encoding="utf-8"))
    ((_, notice),) = page.all("p", id="notice")
    assert "of a training loss the first, the median and the last" in notice


def test_records_come_alone_in_a_sequence_or_by_name() -> None:
    record = example_record()
    assert list(named_records(record)) == ["lora"]
    assert list(named_records([record])) == ["lora"]
    assert list(named_records([record, record])) == ["lora 1", "lora 2"]
    assert list(named_records({"a": record})) == ["a"]


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (example_record().drop_vars("part"), "its 'trainable_parameters' must have the dimensions"),
        (example_record().isel(part=[0]), r"its 'part' must be \('adapter', 'head'\), got \['adapter'\]"),
        (example_record().drop_vars("score"), "it has no 'score'"),
        (example_record().assign(score=("step", [1.0, 1.0, 1.0])), "its 'score' must have the dimensions"),
        (example_record().assign_attrs(schema_version=99), "schema version 99, this gelora reads up to 1"),
        (example_record().assign_attrs(schema="other"), "is not a gelora training record"),
    ],
)
def test_a_damaged_record_or_one_newer_than_this_gelora_is_refused(
    damaged: xr.Dataset, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^`record` .*{said}"):
        write_report(None, tmp_path / "r.html", record=damaged)
    assert not list(tmp_path.iterdir())
