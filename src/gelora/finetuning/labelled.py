"""A task → a model with its head, and batches with labels: what gradients of the task's loss need."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.encoded import make_inputs
from gelora.finetuning.tasks import Task, load_task
from gelora.messages import check_integer
from gelora.quiet import own_generators, quiet_libraries

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def labelled_batches(
    model: Any,
    task: str | Task,
    data_dir: str | Path | None = None,
    *,
    tokenizer: Any = None,
    n_examples: int = 256,
    batch_size: int = 8,
    max_length: int = 128,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "tuple[PreTrainedModel, list[dict[str, torch.Tensor]]]":
    """Return ``model`` with a head for ``task``, and labelled train rows of the task as padded batches.

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        A folder or hub name, or a loaded model with or without a head for the task; a loaded one is copied.
    task : str or Task
        The name of a task, or a `gelora.finetuning.tasks.Task` of your own.
    data_dir : str or Path, optional
        Folder with ``train`` and ``validation`` files; see `gelora.finetuning.tasks.load_task`.
    tokenizer : optional
        A tokenizer, or for images an image processor, its folder or name; by default the one beside the weights.
    n_examples : int
        Train rows, drawn by the seed alone.
    batch_size : int
        Rows a batch.
    max_length : int
        Tokens a text or pair is cut to; fewer where the model takes fewer.
    seed : int
        Of the draw, and of a head that the stored weights lack.
    revision, trust_remote_code
        For a model given by name.

    Returns
    -------
    model : PreTrainedModel
        With a head, in evaluation mode.
    batches : list of dict
        ``input_ids``, ``attention_mask`` and the like of shape (batch_size, n_tokens), or of images ``pixel_values``
        of shape (batch_size, channels, height, width); and ``labels``, of questions ``start_positions`` and
        ``end_positions``. Of a question with a long context there are several windows.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        As `gelora.finetuning.runner.finetune` before any training: among others if the model is adapted already, its
        head does not fit the task, the data lack a column, or the rows drawn are all of one class.

    Notes
    -----
    A head that starts at random shapes the gradients behind it: those of the blocks pass through it. Tune the head
    first, or read the ranks as those at the start of a tuning.
    """
    for name, value in (("n_examples", n_examples), ("batch_size", batch_size), ("max_length", max_length)):
        check_integer(name, value, 1)
    data = load_task(task, data_dir, n_train=n_examples, n_validation=1, seed=seed)
    with quiet_libraries(), own_generators(seed):
        classifier = load_classifier(
            model, data, tokenizer=tokenizer, revision=revision, trust_remote_code=trust_remote_code
        )
    inputs = make_inputs(classifier, data, max_length)
    rows = [dict(inputs.train[row]) for row in range(len(inputs.train))]
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    head: Any = classifier.model
    return head.eval(), [dict(inputs.collate(part)) for part in parts]
