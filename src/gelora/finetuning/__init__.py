"""Fine-tune a model with the ranks of a plan: tasks, metrics, adapters and the runner."""
