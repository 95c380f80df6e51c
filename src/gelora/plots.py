"""Draw profiles, plans, comparisons, training records and topology: a Dataset or a plan in, matplotlib Axes out.

Nothing global is touched: no style is set, and pyplot is used only to open a figure where no ``ax`` is given. Type,
line widths and resolution are those of the style that is active.
"""

from gelora.palette import COLORS as COLORS
from gelora.palette import HATCHES as HATCHES
from gelora.palette import MARKERS as MARKERS
from gelora.plots_comparison import plot_comparison as plot_comparison
from gelora.plots_profile import plot_profile as plot_profile
from gelora.plots_ranks import plot_ranks as plot_ranks
from gelora.plots_scales import plot_scales as plot_scales
from gelora.plots_topology import plot_diagram as plot_diagram
from gelora.plots_topology import plot_spanning_tree as plot_spanning_tree
from gelora.plots_training import plot_rank_history as plot_rank_history
from gelora.plots_training import plot_training as plot_training
