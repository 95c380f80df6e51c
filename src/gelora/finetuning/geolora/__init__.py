"""GeoLoRA: dynamical low-rank training of adapters U S Vᵀ whose ranks move (Schotthöfer et al. 2025).

Not to be mistaken for GeLoRA, which chooses the ranks of LoRA from intrinsic dimensions.
"""

from gelora.finetuning.geolora.layer import GeoLoRALinear as GeoLoRALinear
from gelora.finetuning.geolora.optimizer import GeoLoRAOptimizer as GeoLoRAOptimizer
from gelora.finetuning.geolora.tuner import add_geolora as add_geolora
from gelora.finetuning.geolora.tuner import lora_factors as lora_factors
from gelora.finetuning.geolora.tuner import merge as merge
from gelora.finetuning.geolora.tuner import ranks_of as ranks_of
