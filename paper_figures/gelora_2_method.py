"""The method on a real profile: blocks, dimensions of the hidden states, and the ranks that follow.

Usage: python paper_figures/gelora_2_method.py [--profile file] [--plan file] [--output folder]

The rule of GeLoRA (arXiv 2412.09250), r_i = max(d_i − d_{i−1}, 0) + 1, here with the rise rounded up.
"""

import networkx as nx
from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora import RankPlan, open_profile
from gelora.palette import COLORS

HEIGHTS = {"flow": 1.0, "dimension": 0.0, "rank": -1.0}
BOX = {"boxstyle": "round,pad=0.35", "linewidth": 0.8}


def make_graph(dimensions, ranks):
    """Return the graph of hidden states and blocks in a row, dimensions and ranks below them."""
    graph = nx.DiGraph()
    for layer, dimension in enumerate(dimensions):
        graph.add_node(f"H{layer}", label=f"$H_{layer}$", place=(2 * layer, HEIGHTS["flow"]), kind="state")
        label = f"$d_{layer}$ = {dimension:.1f}"
        graph.add_node(f"d{layer}", label=label, place=(2 * layer, HEIGHTS["dimension"]), kind="dimension")
        graph.add_edge(f"H{layer}", f"d{layer}", kind="estimate")
    for block, rank in enumerate(ranks, start=1):
        x = 2 * block - 1
        rise = dimensions[block] - dimensions[block - 1]
        graph.add_node(f"T{block}", label=f"$T_{block}$", place=(x, HEIGHTS["flow"]), kind="block")
        label = f"$r_{block}$ = {rank}"
        graph.add_node(f"r{block}", label=label, place=(x, HEIGHTS["rank"]), kind="rank", rise=rise)
        graph.add_edge(f"H{block - 1}", f"T{block}", kind="flow")
        graph.add_edge(f"T{block}", f"H{block}", kind="flow")
        graph.add_edge(f"r{block}", f"T{block}", kind="adapt")
        graph.add_edges_from([(f"d{layer}", f"r{block}") for layer in (block - 1, block)], kind="rule")
    return graph


def draw(axes, graph):
    """Draw nodes as labelled boxes, edges as arrows, and under each rank the rise it comes from."""
    places = nx.get_node_attributes(graph, "place")
    colors = {"state": "0.9", "block": COLORS[5], "dimension": "white", "rank": COLORS[4]}
    styles = {"rule": "0.6", "flow": "black", "estimate": COLORS[0], "adapt": COLORS[1]}
    for kind, color in styles.items():
        edges = [(a, b) for a, b, of in graph.edges(data="kind") if of == kind]
        options = {"edge_color": color, "arrowsize": 7, "node_size": 330, "width": 0.9}
        nx.draw_networkx_edges(graph, places, edgelist=edges, ax=axes, **options)
    for name, (x, y) in places.items():
        kind = graph.nodes[name]["kind"]
        edge = COLORS[0] if kind == "dimension" else "black"
        box = BOX | {"facecolor": colors[kind], "edgecolor": edge}
        size = 7 if kind in ("state", "block") else 6.5
        axes.text(x, y, graph.nodes[name]["label"], ha="center", va="center", fontsize=size, bbox=box)
        if kind == "rank":
            text = f"rise {graph.nodes[name]['rise']:+.2f}".replace("-", "−")
            axes.text(x, y - 0.45, text, ha="center", va="center", fontsize=6, color="0.3")


def main():
    """Draw the profile and the plan as a graph."""
    folder = INPUTS / "rank_patterns"
    arguments = read_arguments(__doc__, profile=folder / "cola.nc", plan=folder / "cola-paper.json")
    profile, plan = open_profile(arguments.profile).sel(estimator="twonn"), RankPlan.load(arguments.plan)
    dimensions, ranks = profile["dimension"].values, list(plan.block_ranks.values())
    stable = f"; stability of the plan {plan.stability:.2f}" if plan.uncertainty else ""
    origin = (
        f"all-MiniLM-L6-v2 (6 blocks), not the paper's DeBERTaV3-base (12); {profile.attrs['n_rows']:,} train rows of "
        f"CoLA, mean pooling, TwoNN (standard error {profile['standard_error'].values.max():.1f} at most){stable}. "
        f"{profile.attrs['created'][:10]}."
    )
    with new_figure(arguments.output, "gelora-2-method", size=(PAGE, 2.6), made_from=origin) as figure:
        axes = figure.subplots()
        axes.axis("off")
        draw(axes, make_graph(dimensions, ranks))
        rule = r"$r_i = \lceil\,\max(d_i - d_{i-1},\,0)\,\rceil + 1$"
        axes.set_title(f"{rule}   for the query, key, value and output matrices of block $T_i$", fontsize=8)
        axes.set(xlim=(-0.9, 2 * len(ranks) + 0.9), ylim=(-1.6, 1.35))


if __name__ == "__main__":
    main()
