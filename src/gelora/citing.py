"""BibTeX for whatever a result rests on: the library, its estimators, its rank policy, its adapters."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import xarray as xr

from gelora.messages import nearest
from gelora.netcdf import json_attribute
from gelora.plan import RankPlan
from gelora.registry import available_estimators, make_estimator

_SOFTWARE = """@software{{gelora,
  title = {{{{gelora}}: intrinsic dimension of transformer hidden states, and the {{LoRA}} ranks that follow from it}},
  author = {{{{The gelora developers}}}},
  version = {{{version}}},
  year = {{2026}},
  license = {{Apache-2.0}}
}}"""
_GELORA = """@inproceedings{EdDib2024,
  title = {{GeLoRA}: geometric adaptive ranks for efficient {LoRA} fine-tuning},
  author = {Ed-dib, Abdessalam and Datbayev, Zhanibek and Aboussalah, Amine Mohamed},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2025},
  year = {2025},
  eprint = {2412.09250},
  archivePrefix = {arXiv}
}"""
_FISHER = "% ranks by the spectrum of the empirical Fisher information, as gelora.fisher describes it"
_LORA = """@inproceedings{Hu2021,
  title = {{LoRA}: low-rank adaptation of large language models},
  author = {Hu, Edward J. and others},
  booktitle = {International Conference on Learning Representations},
  year = {2022},
  eprint = {2106.09685},
  archivePrefix = {arXiv}
}"""
# What each adapter of `finetune` rests on.
_ADAPTERS: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "bitfit": (
        """@inproceedings{BenZaken2022,
  title = {{BitFit}: simple parameter-efficient fine-tuning for transformer-based masked language-models},
  author = {Ben Zaken, Elad and Ravfogel, Shauli and Goldberg, Yoav},
  booktitle = {Annual Meeting of the Association for Computational Linguistics},
  year = {2022},
  eprint = {2106.10199},
  archivePrefix = {arXiv}
}""",
    ),
    "houlsby": (
        """@inproceedings{Houlsby2019,
  title = {Parameter-efficient transfer learning for {NLP}},
  author = {Houlsby, Neil and others},
  booktitle = {International Conference on Machine Learning},
  year = {2019},
  eprint = {1902.00751},
  archivePrefix = {arXiv}
}""",
    ),
    "pfeiffer": (
        """@inproceedings{Pfeiffer2021,
  title = {{AdapterFusion}: non-destructive task composition for transfer learning},
  author = {Pfeiffer, Jonas and Kamath, Aishwarya and R{\\"u}ckl{\\'e}, Andreas and Cho, Kyunghyun and Gurevych, Iryna},
  booktitle = {Conference of the European Chapter of the Association for Computational Linguistics},
  year = {2021},
  eprint = {2005.00247},
  archivePrefix = {arXiv}
}""",
    ),
    "lora": (_LORA,),
    "rslora": (
        _LORA,
        """@misc{Kalajdzievski2023,
  title = {A rank stabilization scaling factor for fine-tuning with {LoRA}},
  author = {Kalajdzievski, Damjan},
  year = {2023},
  eprint = {2312.03732},
  archivePrefix = {arXiv}
}""",
    ),
    "dora": (
        _LORA,
        """@inproceedings{Liu2024,
  title = {{DoRA}: weight-decomposed low-rank adaptation},
  author = {Liu, Shih-Yang and others},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2402.09353},
  archivePrefix = {arXiv}
}""",
    ),
    "adalora": (
        """@inproceedings{Zhang2023,
  title = {Adaptive budget allocation for parameter-efficient fine-tuning},
  author = {Zhang, Qingru and others},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  eprint = {2303.10512},
  archivePrefix = {arXiv}
}""",
    ),
    "eva": (
        _LORA,
        """@misc{Paischer2024,
  title = {One initialization to rule them all: fine-tuning via explained variance adaptation},
  author = {Paischer, Fabian and others},
  year = {2024},
  eprint = {2410.07170},
  archivePrefix = {arXiv}
}""",
    ),
    "sora": (
        """@inproceedings{Ding2023,
  title = {Sparse low-rank adaptation of pre-trained language models},
  author = {Ding, Ning and others},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year = {2023},
  eprint = {2311.11696},
  archivePrefix = {arXiv}
}""",
    ),
    "geolora": (
        """@inproceedings{Schotthoefer2025,
  title = {{GeoLoRA}: geometric integration for parameter efficient fine-tuning},
  author = {Schotth{\\"o}fer, Steffen and Zangrando, Emanuele and Ceruti, Gianluca and Tudisco, Francesco
    and Kusch, Jonas},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2410.18720},
  archivePrefix = {arXiv}
}""",
    ),
}
# Policies that make ranks of rises; of the others a profile may tell the budget alone.
_GEOMETRIC = ("geometric", "recommended", "proportional", "budget", "shuffled", "reversed")


def citation(*results: xr.Dataset | RankPlan | str) -> str:
    """Return the BibTeX entries of what the results rest on, each once: the library first, then the methods.

    Parameters
    ----------
    *results : xarray.Dataset, RankPlan or str
        Profiles, rank plans, training records and comparisons, as gelora's functions return them, and names of
        estimators or adapters, such as ``"mle"`` or ``"geolora"``. Without any, the library and GeLoRA's paper.

    Returns
    -------
    str
        The entries. What cites nothing, as an estimator of one's own may, is named in a comment.

    Raises
    ------
    TypeError, ValueError
        For something that is no result of gelora's, or names neither an estimator nor an adapter.

    Examples
    --------
    >>> import gelora
    >>> entries = [line for line in gelora.citation("twonn", "geolora").splitlines() if line.startswith("@")]
    >>> entries[1:]
    ['@article{Facco2017,', '@inproceedings{Schotthoefer2025,']
    """
    found = [_GELORA] if not results else [entry for result in results for entry in _entries(result)]
    unique: dict[str, str] = {"": _SOFTWARE.format(version=version("gelora"))}
    for entry in (part for text in found for part in _split(text)):
        key = re.match(r"@\w+\{\s*([^,\s]+)", entry)
        unique.setdefault(key[1] if key else entry, entry)
    return "\n\n".join(unique.values()) + "\n"


def _split(text: str) -> list[str]:
    """Return the entries of a text that may hold several, so that one cited by two estimators is printed once."""
    return [part.strip() for part in re.split(r"^(?=@\w+\{)", text, flags=re.MULTILINE) if part.strip()]


def _entries(result: Any) -> Iterator[str]:
    if isinstance(result, str):
        yield from _by_name(result)
    elif isinstance(result, RankPlan):
        yield from _of_plan(result.policy, result.provenance)
    elif isinstance(result, xr.Dataset):
        yield from _of_dataset(result)
    else:
        raise TypeError(
            "`results` must be profiles, rank plans, training records, comparisons, or names of estimators or "
            f"adapters, got {type(result).__name__}"
        )


def _by_name(name: str) -> Iterator[str]:
    bare = name.split("(")[0].strip()
    if bare in _ADAPTERS:
        yield from _ADAPTERS[bare]
    elif bare == "gelora":
        yield _GELORA
    elif bare in available_estimators():
        yield _of_estimator(name)
    else:
        known = sorted({*_ADAPTERS, "gelora", *available_estimators()})
        raise ValueError(
            f"`results` has {name!r}, no estimator and no adapter{nearest(bare, known)}; there are {known}"
        )


def _of_estimator(name: str) -> str:
    return str(getattr(make_estimator(name), "citation", "")).strip() or f"% the estimator {name!r} cites nothing"


def _of_dataset(dataset: xr.Dataset) -> Iterator[str]:
    schema = str(dataset.attrs.get("schema", ""))
    if schema == "gelora-profile":
        yield _GELORA
        for label, text in _mapping(dataset, "citations").items():
            yield str(text).strip() or f"% the estimator {label!r} cites nothing"
    elif schema == "gelora-training-record":
        yield from _of_plan(str(dataset.attrs.get("policy", "")), _mapping(dataset, "plan_provenance"))
        yield from _ADAPTERS.get(str(dataset.attrs.get("adapter", "")), ())
    elif schema == "gelora-comparison":
        study = _mapping(dataset, "study")
        for method in study.get("methods", []):
            estimator = str((method.get("ranks") or {}).get("estimator") or study.get("estimator", "twonn"))
            yield from _of_plan(str(method.get("policy", "")), {"profile": {"estimator": estimator}})
            yield from _ADAPTERS.get(str(method.get("adapter", "")).split("(")[0], ())
    elif schema == "gelora-theory-report":
        yield _GELORA
    elif schema in ("gelora-persistence", "gelora-spanning-tree"):
        yield _of_estimator("ph")
    else:
        raise ValueError(f"`results` must be made by gelora, got a Dataset whose attribute `schema` is {schema!r:.80}")


def _mapping(dataset: xr.Dataset, name: str) -> dict[str, Any]:
    record = json_attribute(dataset, name, "`results`")
    if not isinstance(record, dict):
        raise ValueError(f"`results`: its attribute `{name}` is damaged: {record!r:.80}")
    return record


def _of_plan(policy: str, provenance: Mapping[str, Any]) -> Iterator[str]:
    if policy in _GEOMETRIC:
        yield _GELORA
        more = provenance.get("more_profiles")
        for record in [provenance.get("profile"), *(more if isinstance(more, list) else [])]:
            if isinstance(record, Mapping) and record.get("estimator"):
                yield _known(str(record["estimator"]))
    if policy == "eva":
        yield from _ADAPTERS["eva"]
    elif policy == "fisher":
        yield _FISHER


def _known(label: str) -> str:
    """Return what the estimator under ``label`` cites; a label of one's own, or a plug-in not installed, is named."""
    try:
        return _of_estimator(label)
    except ValueError:
        return f"% the estimator {json.dumps(label)} is not known here"
