"""The page of the cost model: rates that were measured, formulas, and what two large models take."""

# ruff: noqa: E501 (the sentences of the page)

from typing import Any

import numpy as np

from gelora.cost import Cost, Rates, estimate_cost
from gelora.sizes import ModelSize, decoder_parameters, model_size
from gelora_estimators import PersistentHomology

# By the configuration files of meta-llama: blocks, width, feed-forward width, vocabulary, heads, heads of keys and values.
LLAMAS = {"Llama-2-7B": (32, 4096, 11008, 32000, 32, 32), "Llama-2-70B": (80, 8192, 28672, 32000, 64, 8)}
EXAMPLES, LENGTH = (10_000, 100_000, 1_000_000), 128
# NVIDIA's data sheet of the H200 SXM: tensor cores in bfloat16 without sparsity, and float32.
H200_BF16, H200_FP32, SHARE = 989e12, 67e12, 0.4


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def amount(value: float, unit: str) -> str:
    """Return a number with a decimal prefix and three digits."""
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z")
    power = 0 if value < 1 else min(int(np.log10(value) // 3), len(prefixes) - 1)
    return f"{value / 1000.0**power:.3g} {prefixes[power]}{unit}"


def time_of(seconds: float) -> str:
    """Return hours, to two digits."""
    hours = seconds / 3600
    return "< 0.01" if hours < 0.01 else f"{float(f'{hours:.2g}'):,.10g}"


def sizes(name: str, dtype: str = "float16") -> ModelSize:
    """Return the sizes of one of the models, by its configuration alone."""
    from transformers import LlamaConfig

    blocks, width, intermediate, vocabulary, heads, few = LLAMAS[name]
    config = LlamaConfig(
        num_hidden_layers=blocks,
        hidden_size=width,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        num_attention_heads=heads,
        num_key_value_heads=few,
    )
    return model_size(config, dtype=dtype)


def costs() -> dict[tuple[str, int], Cost]:
    """Return the cost of both models at every number of examples."""
    return {(name, n): estimate_cost(sizes(name), n, LENGTH, n_neighbors=32) for name in LLAMAS for n in EXAMPLES}


def hours(devices: dict[str, Rates]) -> str:
    """Return the table of the hours that both models take on machines."""
    rows = []
    for (name, n), cost in costs().items():
        for device, rates in devices.items():
            found = cost.seconds(rates)
            steps = ("forward", "write", "read", "search", "covariates", "total")
            rows.append([name, f"{n:,}", device, *(time_of(found[step]) for step in steps)])
    head = ["model", "examples", "hours", "forward", "writing", "reading", "search", "covariates", "all steps"]
    return table(head, rows)


def measured(found: dict[str, Any]) -> str:
    """Write the section on rates."""

    def row(what: str, one: dict[str, Any], unit: str) -> list[str]:
        values = (one["rate"], one["median_rate"], one["clock_rate"])
        return [what, *(amount(value, unit) for value in values), str(len(one["seconds"]))]

    rows = [
        row("forward pass by the collector, 4 blocks of width 1,024, float32", found["forward"]["llama"], "FLOP/s"),
        row("the same, MiniLM", found["forward"]["minilm"], "FLOP/s"),
        row("tokens of texts (MiniLM's tokenizer)", found["tokens"], "token/s"),
    ]
    for name, one in found["stores"].items():
        what = f"{name}, {one['points']:,} × {one['width']:,}, {one['layers']} layers"
        rows += [
            row(f"{verb}: {what}", one[key], "B/s")
            for verb, key in (("written", "write"), ("read", "read"), ("checked", "check"))
        ]
    for one in found["estimation"]:
        what = f"{one['n']:,} × {one['width']:,}"
        rows += [
            row(f"{name}, {what}", one[key], "FLOP/s")
            for name, key in (
                ("32 neighbours", "search"),
                ("spanning tree", "tree"),
                ("covariates", "covariates"),
            )
        ]
    for name, one in found["readings"].items():
        rows.append(row(f"`{name}` after the search, with its error", one["whole"], "point/s"))
        rows.append(row(f"`{name}` on halves", one["halves"], "point/s"))
    machine = found["machine"]
    ratios = "; ".join(f"{name} {one['ratio']:.3f}" for name, one in found["stores"].items())
    beside = max(one["beside_a_window"] for one in found["stores"].values())
    whole = found["whole"]
    return "\n\n".join(
        [
            "## Rates of one core",
            f"Measured on {found['date']}, {machine['system']}, {machine['cores']} cores without a GPU, one thread, in {found['took']:.0f} s; "
            f"{', '.join(f'{name} {version}' for name, version in found['versions'].items())}. The cores were shared with other jobs "
            f"(load {machine['load']:.0f}). So rates are by the CPU time of the process, of the fastest run and of the median "
            "one; by the clock stands what was left of it. All are lower bounds of what the core does alone: caches and memory were shared too.",
            table(["work", "fastest", "median", "by the clock", "runs"], rows),
            "Bytes are those of states before compression, in float32, written to the page cache and read from it with checksums: a slower disk "
            f"bounds them further. On disk states take this share of their bytes: {ratios}. Real hidden states in float32 compress as little as those of "
            f"random weights: only the byte of sign and exponent gives way. Beside them a store held up to {beside:,.0f} bytes a window: its mark and its description.",
            "What the formulas below give at these rates against one run: extraction of "
            f"{whole['texts']} texts of {LENGTH} tokens into a store {whole['extraction']['seconds']:.2f} s, predicted {whole['extraction']['predicted']:.2f} s; "
            f"`twonn` on two clouds of {whole['n']:,} × {whole['width']} {whole['estimation']['seconds']:.2f} s, predicted {whole['estimation']['predicted']:.2f} s.",
        ]
    )


FORMULAS = r"""## Formulas

`gelora.cost.estimate_cost` computes them for any model whose blocks are known, by its configuration and without its
weights. Symbols: L blocks of width d, heads of a numbers in all, feed-forward width m, vocabulary V, keys and values of
width d_kv; N texts of T tokens; ℓ layers kept (L + 1 unless `layers=` says fewer); n points a layer, which is N, or with
pooling `tokens` the tokens kept.

| what | formula | held by a test against |
| --- | --- | --- |
| parameters of a LLaMA | 2 V d + L (2 d² + 2 d d_kv + 3 d m + 2 d) + d | the model on the meta device, exactly |
| forward pass, FLOP | N T (2 P + 4 L T a), P the numbers in the matrices of the blocks | torch's counter, exactly for six architectures (but BERT's pooler) |
| states, bytes | 4 ℓ n d, and 8 n for data rows | the arrays of a store, exactly |
| token ids, bytes on disk | 4 N T | |
| windows | ⌈n / w⌉ of w points, 2 MiB a layer | the store |
| memory of extraction | weights + 4 × 4 ℓ w d + 72 N, and activations of a batch | the 4, by NumPy's allocations |
| memory of estimation | for each task at once: 4 n d unless mapped + 16 n k for k neighbours + work space | |
| read back, bytes | 4 ℓ n d (2 + estimators) | calls of the store, exactly |
| search, FLOP | 2 ℓ n² (d + 2) | torch's counter, exactly |
| spanning trees, FLOP | 2 ℓ m² (d + 2) for each of m points | |
| covariates, FLOP in float64 | ℓ (2 n d min(n, d) + 4/3 min(n, d)³) | |

- The forward pass is the $C_\text{forward} = 2 N + 2 n_\text{layer} n_\text{ctx} d_\text{attn}$ a token of
  [Kaplan2020](../references.md), section 2.1 and table 1, but for two things. Their 2 for attention is our 4, since the whole square of
  scores is computed; kernels that leave out what a causal model masks need half. And P is without embeddings, which
  are looked up, and without the language-model head, which does not run.
- With pooling `tokens` a text whose tokens lie in two windows runs for both: at most one more text a window.
- The search measures k + 4 candidates of each point again in float64, 3 n (k + 4) d operations; they are in its rate, as is
  what a spanning tree searches beyond its first lists.
- All estimators that take neighbours share one search. `n_replicates` halves take theirs from the same lists: no search
  more, only readings, n/2 points each. An estimator without `from_distances` works on each half anew.
- A layer that is mapped from disk is gone through once for each part of 2²⁸ bytes: ⌈4 n (d + 2) / 2²⁸⌉ times."""


def takes() -> str:
    """Write the section on operations and bytes."""
    rows = []
    for (name, n), cost in costs().items():
        wide = estimate_cost(sizes(name, "float32"), n, LENGTH, n_neighbors=32)
        mapped = estimate_cost(sizes(name), n, LENGTH, n_neighbors=32, free_memory=0)
        rows.append(
            [
                name,
                f"{n:,}",
                amount(cost.store_bytes, "B"),
                amount(cost.token_bytes, "B"),
                f"{amount(cost.extraction_memory, 'B')} / {amount(wide.extraction_memory, 'B')}",
                amount(cost.layer_bytes, "B"),
                f"{amount(cost.estimation_memory, 'B')} / {amount(mapped.estimation_memory, 'B')}",
                f"{mapped.passed_bytes // mapped.states_bytes}",
                *(f"{value:.2g}" for value in (cost.forward_flops, cost.search_flops, cost.covariance_flops)),
            ]
        )
    head = ["model", "examples", "store", "token ids", "memory of extraction, weights of 16 / 32 bits", "one layer"]
    head += ["memory of a search, in memory / mapped", "passes if mapped", "FLOP forward", "search", "covariates"]
    counts = []
    for name, (blocks, width, intermediate, vocabulary, heads, few) in LLAMAS.items():
        whole = decoder_parameters(blocks, width, intermediate, vocabulary, few * width // heads)
        counts.append(
            f"{name} has {whole:,} parameters, of which {sizes(name).block_weights:,} are in matrices of its blocks"
        )
    return "\n\n".join(
        [
            f"## Two models, texts of {LENGTH} tokens",
            f"{'; '.join(counts)}. Mean pooling, all layers, `twonn` (32 neighbours). Stores are before compression.",
            table(head, rows),
        ]
    )


def page(found: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    here = found["rates"]
    assumed = here | {"flops": SHARE * H200_BF16, "search_flops": SHARE * H200_FP32}
    trees = int(sum(float(size) ** 2 for size in PersistentHomology()._sizes(2000)) * 21)
    same = int(np.sqrt(trees))
    large = costs()["Llama-2-7B", 1_000_000].seconds(Rates(**assumed))
    slowest = max((step for step in large if step != "total"), key=lambda step: large[step])
    return (
        "\n\n".join(
            [
                "# What it costs",
                "Made by `make bench-cost`. Operations and bytes follow from sizes, by formulas that tests hold against torch, stores and searches; hours "
                "are these divided by rates. No large model was run for this page.",
                measured(found),
                FORMULAS,
                takes(),
                "## Hours",
                f"*One core* is the core above, at its fastest rates. *H200, assumed* is not measured: {SHARE:.0%} of the peaks in NVIDIA's data sheet, "
                f"{H200_BF16 / 1e12:.0f} TFLOPS in bfloat16 without sparsity for the forward pass and {H200_FP32 / 1e12:.0f} TFLOPS in float32 for the search "
                '(`device="cuda"` of the estimator), with everything else on one core here, and without the copies between the two. Whether the weights fit is another question. '
                "Steps are added up as if one followed the other on one device; processes divide extraction, and workers estimation.",
                hours({"one core": Rates(**here), "H200, assumed": Rates(**assumed)}),
                f"On the assumed H200 what takes longest of a million texts through the 7B model is the step *{slowest}*, {time_of(large[slowest])} h of "
                f'{time_of(large["total"])} h. The search grows as n² and the forward pass as n. A dimension rarely needs a million points: `n_samples="auto"` '
                "stops where ranks are settled.",
                f"`ph` grows 21 trees of each of eight sizes up to 2,000 points: {trees:,} pairs, as many as a search of {same:,} points, however many there are.",
                "Other rates: `python tests/benchmarks/cost_model.py --flops 4e14 --search-flops 3e13 --write-bytes 1e9` prints the hours, with rates of "
                "this page for what is left out. In Python:",
                "```python\nfrom gelora.cost import Rates, estimate_cost\n\n"
                'cost = estimate_cost("meta-llama/Llama-2-7b-hf", 100_000, 128, dtype="bfloat16")\n'
                "cost.store_bytes, cost.extraction_memory\ncost.seconds(Rates(flops=4e14, search_flops=3e13, write_bytes=1e9))\n```",
            ]
        )
        + "\n"
    )
