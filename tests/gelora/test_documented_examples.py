"""The Python on the pages compiles, and runs where it needs neither the network nor a cluster.

The blocks of a page run one after the other, in a folder that holds what they read, with the names that the pages
take as given: ``model``, ``texts``, ``data``, ``profile`` and ``plan``. The model is tiny, so numbers mean nothing.
"""

import doctest
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from documentation import DOCS, ROOT, pages, python_blocks

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")

# What stands in blocks that are compiled only, beside those that say `% needs …` themselves, and why they are not run.
NOT_RUN = {
    '"meta-llama/Llama-3.1-70B"': "needs the hub",
    "BitsAndBytesConfig(load_in_8bit=True)": "goes on with the folder of the reader's own model",
    "from dask_jobqueue import": "needs a cluster",
    'estimate_cost("meta-llama/': "reads a configuration from the hub",
    "transformers.Trainer(": "leaves the arguments of the Trainer to the reader",
    '"photos/train"': "needs a folder of photographs",
    'data_dir="squad_v2"': "needs SQuAD's files",
    'finetune(decoder, "instructions"': "needs a decoder and a set of instructions",
    "from trl import SFTConfig": "needs TRL",
    '"meta-llama/Llama-3.2-1B", texts': "needs the hub",
    'Client("tcp://HOST:8786")': "needs a cluster",
    'xarray.open_dataset("profile.nc"': "is what a reader without gelora writes",
    'open("plan.json")': "likewise",
    "zarr.open_array(": "likewise",
}
SLOW = {"README.md", "docs/index.md"}  # fine-tuning, and the pretrained encoder
PAGES = pages() if DOCS.is_dir() else []


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def reason_not_to_run(block: str) -> str:
    return next((reason for part, reason in NOT_RUN.items() if part in block), "")


def runnable(page: Path) -> list[str]:
    if page.parent.name == "howto":  # these compare what is printed too, in a test of their own
        return []
    blocks = python_blocks(page, only_runnable=True)
    return [block for block in blocks if not block.startswith(">>>") and not reason_not_to_run(block)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_on_a_page_compiles(page: Path) -> None:
    for block in python_blocks(page):
        if not block.startswith(">>>"):
            compile(block, name_of(page), "exec")


@pytest.fixture(scope="module")
def given(tiny_tokenizer: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the pages take as given: an encoder of six blocks and random texts among them."""
    import datasets
    import torch
    from transformers import BertConfig, BertModel

    import gelora

    tokenizer, model = tiny_tokenizer(), tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes, initializer_range=0.2)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    words = [word for word in tokenizer.get_vocab() if not word.startswith("[")]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=9)) for _ in range(500)]
    profile = gelora.estimate(model, texts, estimator=["twonn", "mle"], n_replicates=10, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = gelora.plan_ranks(profile, model, estimator="mle")
    data = datasets.Dataset.from_dict({"sentence": texts})
    return {"gelora": gelora, "model": model, "texts": texts, "data": data, "profile": profile, "plan": plan}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], sentiment: Any) -> Path:
    """A working directory with the files that the pages read."""
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    for task in ("sst2", "glue/sst2"):
        (tmp_path / task).mkdir(parents=True)
        for split in ("train", "validation"):
            pd.DataFrame(getattr(sentiment, split)).to_parquet(tmp_path / task / f"{split}.parquet")
    gelora = given["gelora"]
    gelora.save_profile(given["profile"], tmp_path / "profile.nc")
    given["plan"].save(tmp_path / "plan.json")
    (tmp_path / "results").mkdir()
    shutil.copy(DOCS / "benchmarks" / "comparison" / "comparison.nc", tmp_path / "results")
    study = f"model: {given['model']}\ndata_dir: glue\ntasks: [sst2]\nmethods: [lora-r1]\ntraining: {{max_steps: 2}}\n"
    (tmp_path / "study.yaml").write_text(f"{study}output: compared\n", encoding="utf-8")
    return tmp_path


def pages_that_run() -> list[Any]:
    return [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if name_of(page) in SLOW else [])
        for page in PAGES
        if runnable(page)
    ]


@pytest.mark.filterwarnings("ignore")  # tiny models have no stable plan, and say so
@pytest.mark.parametrize("page", pages_that_run())
def test_python_on_a_page_runs(page: Path, folder: Path, given: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    names = dict(given)
    for block in runnable(page):
        exec(compile(block, name_of(page), "exec"), names)
    plt.close("all")


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution of the page on adding an estimator, as if it were installed."""
    source = ROOT / "tests" / "third_party_plugin"
    record = tmp_path / "gelora_correlation-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: gelora-correlation\nVersion: 0.1.0\n")
    table = "[gelora.estimators]\ncorrelation = gelora_correlation:CorrelationDimension\n"
    (record / "entry_points.txt").write_text(table)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(source / "src")


def doctests() -> dict[str, doctest.DocTest]:
    parser, found = doctest.DocTestParser(), {}
    for page in PAGES:
        text = "\n".join(block for block in python_blocks(page) if block.startswith(">>>"))
        if text:
            found[name_of(page)] = parser.get_doctest(text, {}, name_of(page), str(page), 0)
    return found


@pytest.mark.parametrize("page", doctests())
@pytest.mark.usefixtures("plug_in")
def test_examples_with_results_give_them(page: str) -> None:
    report: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(doctests()[page], out=report.append)
    assert found.attempted
    assert not found.failed, "".join(report)
