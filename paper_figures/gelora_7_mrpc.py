"""Ranks of every block and matrix on MRPC, with the probabilities of the ranks.

Usage: python paper_figures/gelora_7_mrpc.py [--plans folder] [--output folder]

As figures 5–10 of GeLoRA (arXiv 2412.09250) show them, on another model. The drawing is that of `rank_maps`.
"""

from rank_maps import draw_task

if __name__ == "__main__":
    draw_task(7, "mrpc", "MRPC")
