"""Credentials end up in nothing that is written or shown."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from gelora import cli as cli
from gelora import estimate, extract_representations, plan_ranks
from gelora.estimation import estimate_representations
from gelora.files import to_json
from gelora.masking import masked
from gelora.models import load_pretrained
from gelora.profile import save_profile
from tiny_models import ragged_batch, tiny_model

TOKEN = "hf_" + "AbCdEfGhIj" * 3
ADDRESS = "https://me:pass-word@host/model"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ADDRESS, "https://***@host/model"),
        (str(Path(ADDRESS)), "https:/***@host/model"),
        (f"x {TOKEN}, y", "x ***, y"),
        ("s3://b/a.csv?X-Amz-Signature=abc&rows=5", "s3://b/a.csv?X-Amz-Signature=***&rows=5"),
        ("https://host/a.csv?access_token=abc", "https://host/a.csv?access_token=***"),
        # what is none
        ("me@host.org wrote https://host/@me", "me@host.org wrote https://host/@me"),
        ("C:/folder/a@b", "C:/folder/a@b"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("hf_model", "hf_model"),
    ],
)
def test_credentials_are_stars_and_the_rest_stands(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert json.loads(to_json({"a": [text]})) == {"a": [expected]}


def test_the_token_of_the_environment_is_masked_whatever_it_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-another-shape")
    assert masked("sent of-another-shape to host") == "sent *** to host"


@pytest.mark.parametrize("secret", ["pass-word", TOKEN])
def test_no_file_holds_a_credential_of_the_models_name(
    tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = tiny_model("bert")
    model.name_or_path = f"https://me:{secret}@host/model"
    batch = ragged_batch(60)
    with caplog.at_level(logging.DEBUG):
        extract_representations(model, batch, store=tmp_path / "store", progress=False)
        profile = estimate(model, batch, estimator="twonn", progress=False)
        save_profile(profile.assign_attrs(data=f"https://me:{secret}@host/a"), tmp_path / "profile.nc")
        plan_ranks(profile, model, "geometric").save(tmp_path / "plan.json")
    assert profile.attrs["model"] == "https://***@host/model"
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"profile.nc", "plan.json", "gelora.json"} <= {file.name for file in written}
    for file in written:
        assert secret.encode() not in file.read_bytes(), file
    assert secret not in caplog.text


def test_attributes_that_are_given_are_masked_in_the_file(tmp_path: Path) -> None:
    made = estimate_representations([np.random.default_rng(0).normal(size=(60, 3))] * 2, progress=False)
    file = save_profile(made.assign_attrs(note=ADDRESS), tmp_path / "profile.nc")
    assert b"pass-word" not in file.read_bytes()
    assert made.attrs == {name: value for name, value in made.attrs.items() if name != "note"}


def test_errors_do_not_repeat_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"`model`: there is no folder 'https://\*\*\*@host/model'"):
        load_pretrained(ADDRESS)
    with pytest.raises(FileNotFoundError, match=r"`data`: there is nothing at 'https:/\*\*\*@host/a.txt'"):
        estimate(tiny_model("bert"), "https://me:pass-word@host/a.txt", progress=False)


def test_the_command_line_does_not_repeat_a_credential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gelora", "estimate", "--model", ADDRESS, "--data", "no.txt", "--output", "p.nc"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr()
    assert "pass-word" not in shown.out + shown.err
    assert "gelora: error" in shown.err
