"""What is written for other tools is the plan: peft, its comparison on MetaMathQA, Axolotl and TRL read it back."""

import json
import os
from dataclasses import replace

import pytest
import torch
import transformers as hf
import yaml

from adapted import adapters, plan_of
from gelora.export import config_fields
from gelora.ranks import plan_ranks
from tiny_models import ragged_batch, tiny_model


@pytest.fixture
def llama():
    model = tiny_model("llama", auto=hf.AutoModelForCausalLM.from_config)
    model.name_or_path = model.config.name_or_path = "base"
    return model


@pytest.mark.parametrize("anchored", [False, True])
def test_peft_loads_the_written_configuration_as_the_plan_made_it(llama, tmp_path, anchored):
    from peft import LoraConfig, get_peft_model

    plan = plan_of(llama)
    options = {"model": llama if anchored else None, "task_type": "CAUSAL_LM", "lora_dropout": 0.1}
    folder = plan.to_adapter_config(tmp_path / "new" / "adapter", base_model="base", **options)
    assert folder == tmp_path / "new" / "adapter"
    assert [path.name for path in folder.iterdir()] == ["adapter_config.json"]  # nothing half-written beside it
    loaded = LoraConfig.from_pretrained(folder)
    made = plan.to_lora_config("CAUSAL_LM", model=options["model"], lora_dropout=0.1)
    made.base_model_name_or_path = "base"
    assert config_fields(loaded) == config_fields(made)
    found = adapters(get_peft_model(llama, loaded))
    assert found == {m.name: (m.rank, plan.scaling, m.n_parameters) for m in plan.modules}


def test_the_same_plan_is_written_as_the_same_text(llama, tmp_path):
    plan = plan_of(llama)
    texts = [(plan.to_adapter_config(tmp_path / n) / "adapter_config.json").read_text() for n in ("a", "b")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["target_modules"] == sorted(m.name for m in plan.modules)


def test_the_base_model_is_that_of_the_profile_unless_given(llama, tmp_path):
    plan = plan_of(llama)
    for provenance, given, expected in (
        ({"model": "", "profile": {"model": "profiled"}}, None, "profiled"),
        ({"model": "planned", "profile": {"model": "profiled"}}, None, "planned"),
        ({"model": "planned"}, "given", "given"),
        ({}, None, None),
    ):
        folder = replace(plan, provenance=provenance).to_adapter_config(tmp_path / "out", base_model=given)
        record = json.loads((folder / "adapter_config.json").read_text())
        assert record["base_model_name_or_path"] == expected


def test_a_trained_adapter_is_not_overwritten(llama, tmp_path):
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(
        FileExistsError, match=r"`folder`: .* holds the trained adapter adapter_model\.safetensors: give"
    ):
        plan_of(llama).to_adapter_config(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()


# Fields of TrainConfig in method_comparison/MetaMathQA/utils.py of peft, which its runner reads.
DEFAULTS = {
    **{"model_id": "meta-llama/Llama-3.2-3B", "dtype": "bfloat16", "max_seq_length": 768, "batch_size": 4},
    **{"batch_size_eval": 51, "max_steps": 5000, "eval_steps": 250, "compile": False, "use_gc": False, "seed": 0},
    **{"query_template": "{query}", "grad_norm_clip": 1.0, "optimizer_type": "AdamW", "optimizer_kwargs": {}},
    **{"lr_scheduler": "cosine", "use_amp": False, "autocast_adapter_dtype": True, "generation_kwargs": {}},
    **{"attn_implementation": None, "init_kv_cache_prefix": None},
}


def read_experiment(path):
    """Read an experiment by the rules of the runner: its path of three parts, its two files, known fields only."""
    parts = path.rstrip(os.path.sep).split(os.path.sep)
    assert len(parts) == 3
    assert parts[0] == "experiments"
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(path)
    changed = {}
    if os.path.exists(os.path.join(path, "training_params.json")):  # noqa: PTH110, PTH118 - as the runner
        with open(os.path.join(path, "training_params.json")) as file:  # noqa: PTH118, PTH123
            changed = json.load(file)
    assert set(changed) <= set(DEFAULTS)
    return config, DEFAULTS | changed


def test_an_experiment_of_the_comparison_on_metamathqa_is_read_as_its_runner_does(llama, tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model

    plan = plan_of(llama)
    folder = plan.to_adapter_config(
        tmp_path, layout="metamathqa", base_model="base", experiment="gelora-2", training_params={"max_steps": 9}
    )
    assert folder == tmp_path / "experiments" / "lora" / "gelora-2"
    monkeypatch.chdir(tmp_path)
    config, training = read_experiment("experiments/lora/gelora-2/")
    assert isinstance(config, LoraConfig)
    assert config.task_type == "CAUSAL_LM"
    assert not config.inference_mode
    assert training == DEFAULTS | {"model_id": "base", "max_steps": 9}
    found = adapters(get_peft_model(llama, config, autocast_adapter_dtype=True))
    assert {name: rank for name, (rank, _, _) in found.items()} == {m.name: m.rank for m in plan.modules}


def test_an_experiment_that_changes_nothing_has_no_training_parameters(llama, tmp_path):
    folder = replace(plan_of(llama), provenance={}).export(tmp_path, "metamathqa")
    assert folder == tmp_path / "experiments" / "lora" / "gelora-uniform"
    assert [path.name for path in folder.iterdir()] == ["adapter_config.json"]


def test_training_parameters_of_another_export_do_not_stay_in_force_unseen(llama, tmp_path):
    plan = replace(plan_of(llama), provenance={})
    folder = plan.export(tmp_path, "metamathqa", training_params={"max_steps": 9})
    before = (folder / "training_params.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds training_params\.json of another export.*: remove it, or give"):
        plan.export(tmp_path, "metamathqa")
    assert (folder / "training_params.json").read_bytes() == before
    assert plan.export(tmp_path, "metamathqa", training_params={"max_steps": 8}) == folder
    assert json.loads((folder / "training_params.json").read_text()) == {"max_steps": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "metamath"}, "`layout` must be one of peft, metamathqa, got 'metamath'; did you mean 'metamathqa'"),
        ({"training_params": {"seed": 1}}, '`training_params` belong to `layout="metamathqa"`: leave them out'),
        (
            {"layout": "metamathqa", "training_params": {"max_step": 1}},
            "`training_params`: the runner has no field 'max_step'; did you mean 'max_steps'?; it has model_id, ",
        ),
        (
            {"layout": "metamathqa", "experiment": "../up"},
            "`experiment` must be the name of one folder, .*, got '../up'",
        ),
    ],
)
def test_arguments_of_a_written_configuration_are_checked(llama, tmp_path, options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        plan_of(llama).to_adapter_config(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def axolotl_config(fragment):
    """Build the configuration from the keys that Axolotl's loader of adapters reads."""
    from peft import LoraConfig

    read = yaml.safe_load(fragment)
    assert read.pop("adapter") == "lora"
    names = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
    names |= {key: key.removeprefix("lora_") for key in read if key not in names}
    return LoraConfig(**{names[key]: value for key, value in read.items()})


@pytest.mark.parametrize(
    ("name", "anchored"), [("llama", True), ("llama", False), ("gpt2", True), ("gpt-neox", False), ("phi3", True)]
)
def test_axolotl_makes_the_same_configuration_from_its_fragment(name, anchored):
    model = tiny_model(name, auto=hf.AutoModelForCausalLM.from_config)
    plan = plan_of(model)
    options = {"model": model if anchored else None, "lora_dropout": 0.25, "modules_to_save": ["lm_head"]}
    fragment = plan.to_axolotl(**options)
    assert config_fields(axolotl_config(fragment)) == config_fields(plan.to_lora_config(**options))
    read = yaml.safe_load(fragment)
    assert isinstance(read["lora_alpha"], int)
    assert all(
        type(value) is int for key in ("lora_rank_pattern", "lora_alpha_pattern") for value in read[key].values()
    )
    assert read.get("lora_fan_in_fan_out", False) == (name == "gpt2")


def test_a_small_number_of_an_axolotl_fragment_is_read_as_a_number(llama):
    for dropout in (1e-5, 2.5e-7, 0.1):
        assert yaml.safe_load(plan_of(llama).to_axolotl(lora_dropout=dropout))["lora_dropout"] == dropout


def test_what_axolotl_has_no_key_for_is_refused(llama):
    plan = plan_ranks(None, llama, "uniform", rank=3, scaling=0.5)
    with pytest.raises(ValueError, match=r"Axolotl takes whole numbers for α, and the plan has 1\.5: choose a whole"):
        plan.to_axolotl()
    with pytest.raises(ValueError, match="`lora_bias` has no key in an Axolotl configuration: leave it out"):
        plan_of(llama).to_axolotl(lora_bias=True)
    with pytest.raises(ValueError, match="`init_lora_weights` must not be False for Axolotl, which then starts from"):
        plan_of(llama).to_axolotl(init_lora_weights=False)


def test_the_program_for_trl_makes_the_same_configuration(llama):
    plan = plan_of(llama)
    text = plan.to_trl(base_model="some/base", dataset="some/rows", model=llama, lora_dropout=0.1)
    compile(text, "sft.py", "exec")
    made = {}
    start, end = text.index("from peft"), text.index("trainer = ")
    exec(text[start:end].replace("from trl import SFTConfig, SFTTrainer", ""), made)
    expected = plan.to_lora_config("CAUSAL_LM", model=llama, lora_dropout=0.1)
    assert config_fields(made["peft_config"]) == config_fields(expected)


def test_the_program_for_trl_hands_its_trainer_the_configuration_model_and_rows(llama, monkeypatch):
    import sys
    import types

    import datasets

    given = {}

    class Trainer:
        def __init__(self, **options):
            given.update(options)

        def train(self):
            given["trained"] = True

    trl = types.SimpleNamespace(SFTConfig=lambda **options: options, SFTTrainer=Trainer)
    monkeypatch.setitem(sys.modules, "trl", trl)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: (name, split))
    exec(plan_of(llama).to_trl(base_model="some/base", dataset="some/rows"), {})
    assert given["model"] == "some/base"
    assert given["train_dataset"] == ("some/rows", "train")
    assert given["peft_config"].r == 5
    assert given["trained"]


def test_every_format_is_written_through_one_door(llama, tmp_path):
    plan = plan_of(llama)
    folder = plan.export(tmp_path / "peft", base_model="base")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert plan.export(tmp_path / "a.yaml", "axolotl").read_text() == plan.to_axolotl()
    assert plan.export(tmp_path / "a.py", "trl", dataset="rows").read_text() == plan.to_trl(dataset="rows")
    with pytest.raises(ValueError, match="`format` must be one of peft, metamathqa, axolotl, trl, got 'axolotol'; did"):
        plan.export(tmp_path / "b.yaml", "axolotol")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        plan.export(tmp_path / "none" / "a.yaml", "axolotl")


HEADS = {
    "bert": hf.AutoModelForSequenceClassification,
    "deberta-v2": hf.AutoModelForSequenceClassification,
    "gpt2": hf.AutoModelForCausalLM,
    "llama": hf.AutoModelForCausalLM,
    "modernbert": hf.AutoModelForSequenceClassification,
    "t5": hf.AutoModelForSeq2SeqLM,
}


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_written_configuration_trains_the_planned_matrices_and_nothing_else(name, tmp_path):
    from peft import LoraConfig, get_peft_model

    plan = plan_of(tiny_model(name), "all-linear")
    model = tiny_model(name, auto=HEADS[name].from_config)
    folder = plan.to_adapter_config(tmp_path / "adapter")
    wrapped = get_peft_model(model, LoraConfig.from_pretrained(folder))
    batch = ragged_batch(8)
    labels = batch["input_ids"] % 2 if name in ("gpt2", "llama", "t5") else torch.arange(8) % 2
    losses, before = train(wrapped, [{**batch, "labels": labels}] * 20)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < losses[0]
    moved = {n for n, p in wrapped.named_parameters() if not torch.equal(p, before[n])}
    assert all("lora_" in parameter for parameter in moved)
    # The last norm and the pooling leave no gradient at a matrix that the loss does not read; all else moves.
    trained = {parameter.split(".lora_")[0].removeprefix("base_model.model.") for parameter in moved}
    found = adapters(wrapped)
    assert trained <= set(found)
    assert len(trained) >= 0.8 * len(plan.modules)
    prefix = "" if name == "t5" else model.base_model_prefix + "."
    assert found == {prefix + m.name: (m.rank, plan.scaling, m.n_parameters) for m in plan.modules}
    assert plan.check(wrapped).adapted


def train(model, batches):
    """Train for a step a batch; return the losses and a copy of the parameters as they were."""
    torch.manual_seed(0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, before


@pytest.mark.slow
def test_a_written_configuration_trains_on_real_sentences(minilm, data_dir, tmp_path):
    import pandas as pd
    from peft import LoraConfig, get_peft_model

    model = hf.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2)
    tokenizer = hf.AutoTokenizer.from_pretrained(minilm)
    plan = plan_of(hf.AutoModel.from_pretrained(minilm))
    wrapped = get_peft_model(model, LoraConfig.from_pretrained(plan.to_adapter_config(tmp_path, task_type="SEQ_CLS")))
    rows = pd.read_parquet(data_dir / "sst2" / "train.parquet").head(20 * 16)
    batches = [
        dict(tokenizer(list(part["sentence"]), padding=True, truncation=True, max_length=32, return_tensors="pt"))
        | {"labels": torch.tensor(part["label"].to_numpy())}
        for _, part in rows.groupby(lambda row: row // 16)
    ]
    losses, before = train(wrapped, batches)
    assert len(losses) == 20
    assert all(torch.isfinite(torch.tensor(losses)))
    assert sum(losses[-5:]) < sum(losses[:5])
    report = plan.check(wrapped)
    assert [(m.name.removeprefix("bert."), m.rank) for m in report.modules] == [(m.name, m.rank) for m in plan.modules]
    trainable = sum(p.numel() for n, p in wrapped.named_parameters() if p.requires_grad and "lora_" in n)
    assert report.n_parameters == trainable == plan.n_parameters
    moved = [n for n, p in wrapped.named_parameters() if not torch.equal(p, before[n])]
    assert all("lora_" in name or "classifier.modules_to_save" in name for name in moved)
    assert len([name for name in moved if "lora_" in name]) == 2 * len(plan.modules)


def test_an_experiment_is_named_in_its_own_layout_alone(tmp_path):
    from examples import example_plan

    with pytest.raises(ValueError, match="`experiment` goes with layout='metamathqa', got layout='peft'"):
        example_plan([1, 2]).to_adapter_config(tmp_path / "out", experiment="mine")
