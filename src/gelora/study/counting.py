"""How many parameters a method trains on a task, before anything is trained."""

from gelora.finetuning.adaptation import Setting, count_head
from gelora.finetuning.adapters import make_adapter
from gelora.finetuning.classifiers import load_classifier
from gelora.quiet import own_generators
from gelora.study.methods import Method
from gelora.study.planning import Planner
from gelora.study.rows import load_rows
from gelora.study.specification import Study, StudyTask


def count_parameters(study: Study, planner: Planner, task: StudyTask, method: Method) -> tuple[int | None, int]:
    """Return the parameters of the adapter and of the head.

    The adapter's are None where they follow from a profile, or from gradients, that are not there yet.
    """
    adapter = make_adapter(method.adapter)
    with own_generators(0):
        classifier = load_classifier(
            study.model,
            load_rows(study, task),
            revision=study.revision,
            trust_remote_code=study.trust_remote_code,
        )
        head = count_head(classifier)
        if method.policy:
            return planner.known_cost(task, method, study.seeds[0]), head
        setting = Setting(classifier=classifier, plan=None, dropout=0.0, seed=0, batches=lambda: iter(()))
        return adapter(setting).count(), head
