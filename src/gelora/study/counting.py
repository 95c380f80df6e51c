"""How many parameters the methods train on a task, before anything is trained."""

import copy

from gelora.finetuning.adaptation import Setting, count_head
from gelora.finetuning.adapters import make_adapter
from gelora.finetuning.classifiers import Classifier, load_classifier
from gelora.quiet import own_generators
from gelora.study.methods import Method
from gelora.study.planning import Planner
from gelora.study.rows import load_rows
from gelora.study.specification import Study, StudyTask


def count_parameters(study: Study, planner: Planner, task: StudyTask) -> dict[str, tuple[int | None, int]]:
    """Return the parameters of the adapter and of the head by method.

    An adapter's are None where they follow from a profile, or from gradients, that are not there yet.
    """
    with own_generators(0):
        classifier = load_classifier(
            study.model,
            load_rows(study, task),
            revision=study.revision,
            trust_remote_code=study.trust_remote_code,
        )
    head = count_head(classifier)
    return {
        method.name: (
            planner.known_cost(task, method, study.seeds[0])
            if method.policy
            else _count_without_ranks(classifier, method),
            head,
        )
        for method in study.methods
    }


def _count_without_ranks(classifier: Classifier, method: Method) -> int:
    """Adapt a copy of the model, and count."""
    own = copy.deepcopy(classifier)
    setting = Setting(classifier=own, plan=None, dropout=0.0, seed=0, batches=lambda: iter(()))
    return make_adapter(method.adapter)(setting).count()
